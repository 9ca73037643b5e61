package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"gopkg.in/yaml.v3"
)

// maxPolicy bounds a policy's text, in bytes.
const maxPolicy = 1 << 20

// readStrict reads the YAML or JSON file that a flag names, - being stdin where
// one is given, and checks it. A misspelt rule would be none, so an unknown
// field is an error. Of an empty file it gives nil.
func readStrict[T any, P interface {
	*T
	Check() error
}](flag, file string, stdin io.Reader) (P, error) {
	var b []byte
	var err error
	if file == "-" && stdin != nil {
		b, err = io.ReadAll(io.LimitReader(stdin, maxPolicy))
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", flag, err)
	}
	p := P(new(T))
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(p); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", flag, file, err)
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", flag, file, err)
	}
	return p, nil
}
