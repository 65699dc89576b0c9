// Package jsontext appends JSON for the two texts that every read costs, its answer and
// its audit record, without the reflection of encoding/json and spelled just like it.
package jsontext

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"time"
)

// String appends s quoted, as an encoder of encoding/json without SetEscapeHTML does.
func String(buf []byte, s string) []byte {
	buf = append(buf, '"')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return escaped(buf[:len(buf)-1], s)
		}
	}
	return append(append(buf, s...), '"')
}

// escaped leaves what is rare, and easy to get wrong, to encoding/json.
func escaped(buf []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always has a form
	return append(buf, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// Field appends a field with a text, unless that is empty, and a comma before it unless
// it is the object's first.
func Field(buf []byte, name, s string) []byte {
	if s == "" {
		return buf
	}
	return String(Name(buf, name), s)
}

// Name appends a field's name, and a comma before it unless it is the object's first.
func Name(buf []byte, name string) []byte { return append(String(next(buf), name), ':') }

// Strings appends a list.
func Strings(buf []byte, list []string) []byte {
	buf = append(buf, '[')
	for _, s := range list {
		buf = String(next(buf), s)
	}
	return append(buf, ']')
}

// Bytes appends b as base64.
func Bytes(buf, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(buf, '"'), b), '"')
}

// Time appends t as RFC 3339 with nanoseconds. Its year has four digits.
func Time(buf []byte, t time.Time) []byte {
	return append(t.AppendFormat(append(buf, '"'), time.RFC3339Nano), '"')
}

func next(buf []byte) []byte {
	if n := len(buf); n > 0 && buf[n-1] != '{' && buf[n-1] != '[' {
		return append(buf, ',')
	}
	return buf
}
