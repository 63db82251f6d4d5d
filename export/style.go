package export

// style paints text with ANSI colours, or leaves it alone. Only the sixteen
// basic colours are used: they follow the reader's theme.
type style struct {
	on       bool
	services map[string]int // place in serviceColors, by order of appearance
}

// serviceColors leaves out red and green, which mean failure and success.
var serviceColors = []string{"36", "33", "35", "34", "96", "93", "95", "94"}

// maxStyled bounds the memory of service names; later ones share a colour.
const maxStyled = 4096

func newStyle(on bool) *style {
	return &style{on: on, services: make(map[string]int)}
}

func (s *style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *style) bold(text string) string  { return s.paint("1", text) }
func (s *style) dim(text string) string   { return s.paint("2", text) }
func (s *style) red(text string) string   { return s.paint("31", text) }
func (s *style) green(text string) string { return s.paint("32", text) }

// service returns the paint of a service: the same for the whole run.
func (s *style) service(name string) func(string) string {
	i, ok := s.services[name]
	if !ok && len(s.services) < maxStyled {
		i = len(s.services)
		s.services[name] = i
	}
	code := serviceColors[i%len(serviceColors)]
	return func(text string) string { return s.paint(code, text) }
}
