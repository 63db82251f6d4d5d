module gomatrix

go 1.19

require (
	golang.org/x/net v0.30.0
	golang.org/x/sync v0.10.0
)

require golang.org/x/text v0.19.0 // indirect
