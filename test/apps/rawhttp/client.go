package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"

	"weft/test/apps/blocking"
	"weft/test/apps/rawhttp/script"
)

// runSteps reads Steps until the input ends and answers each with a Result.
// Connections and buffers live from step to step.
func runSteps(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	var cl client
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var s script.Step
		if err := dec.Decode(&s); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read step: %w", err)
		}
		var res script.Result
		if err := cl.do(s, &res); err != nil {
			res.Error = err.Error()
		}
		if err := enc.Encode(res); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
}

type client struct {
	conn *blocking.Conn
	r    *bufio.Reader
}

func (cl *client) do(s script.Step, res *script.Result) error {
	if s.Connect != "" {
		if err := cl.close(); err != nil {
			return err
		}
		conn, err := blocking.Dial(s.Connect)
		if err != nil {
			return err
		}
		cl.conn, cl.r = conn, bufio.NewReader(conn)
		if s.NonBlocking {
			if err := conn.NonBlocking(); err != nil {
				return err
			}
		}
		if err := conn.NoDelay(!s.Nagle); err != nil {
			return err
		}
	}
	if cl.conn == nil {
		return errors.New("not connected")
	}
	if err := cl.send(s); err != nil {
		return err
	}
	for _, read := range s.Reads {
		got, err := cl.read(read)
		if err != nil {
			return err
		}
		res.Got = append(res.Got, got)
	}
	if s.Close {
		return cl.close()
	}
	return nil
}

func (cl *client) close() error {
	if cl.conn == nil {
		return nil
	}
	err := cl.conn.Close()
	cl.conn = nil
	return err
}

func (cl *client) send(s script.Step) error {
	pieces := s.Pieces
	if pieces == nil && len(s.Send) > 0 {
		pieces = []int{len(s.Send)}
	}
	rest := s.Send
	for i, n := range pieces {
		if n > len(rest) {
			return fmt.Errorf("piece %d: %d bytes of %d left", i, n, len(rest))
		}
		how := s.How
		if i > 0 && s.BodyHow != "" {
			how = s.BodyHow
		}
		if err := sendBy(cl.conn, how, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("pieces leave %d bytes", len(rest))
	}
	return nil
}

func sendBy(c *blocking.Conn, how string, b []byte) error {
	ways := map[string]func([]byte) (int, error){
		"": c.Write, script.Write: c.Write, script.Writev: c.Writev, script.Sendmsg: c.Sendmsg,
		script.Sendto: c.Sendto, script.Sendfile: c.Sendfile,
	}
	way, ok := ways[how]
	if !ok {
		return fmt.Errorf("no way to send is called %q", how)
	}
	_, err := way(b)
	return err
}

func (cl *client) read(read script.Read) (script.Got, error) {
	var got script.Got
	if read.Rest {
		body, err := io.ReadAll(cl.r)
		got.Body = body
		return got, err
	}
	if read.Raw > 0 {
		got.Body = make([]byte, read.Raw)
		_, err := io.ReadFull(cl.r, got.Body)
		return got, err
	}
	method := read.Method
	if method == "" {
		method = http.MethodGet
	}
	return readResponse(cl.r, method)
}

func readResponse(r *bufio.Reader, method string) (script.Got, error) {
	var got script.Got
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return got, fmt.Errorf("read response: %w", err)
	}
	got.Status = resp.StatusCode
	if text := resp.Header.Get(script.ReportHeader); text != "" {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return got, fmt.Errorf("decode report: %w", err)
		}
		got.Report = &script.Report{}
		if err := json.Unmarshal(raw, got.Report); err != nil {
			return got, fmt.Errorf("decode report: %w", err)
		}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return got, nil // what follows is not a body
	}
	got.Body, err = io.ReadAll(resp.Body)
	if err != nil {
		return got, fmt.Errorf("read response body: %w", err)
	}
	return got, resp.Body.Close()
}
