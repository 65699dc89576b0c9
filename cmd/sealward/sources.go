package main

import (
	"fmt"
	"strings"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// expandLiterals expands ${VAR} in the values of --from-literal.
func (a *app) expandLiterals(literals []string) ([]string, error) {
	var out []string
	for _, s := range literals {
		key, value, ok := strings.Cut(s, "=")
		if ok {
			expanded, err := seal.Expand(value, a.LookupEnv)
			if err != nil {
				if _, keyErr := keyArg(key); keyErr != nil {
					return nil, keyErr
				}
				return nil, fmt.Errorf("--from-literal %s: %w", key, err)
			}
			s = key + "=" + expanded
		}
		out = append(out, s)
	}
	return out, nil
}

// envValues collects --from-env-file.
func (a *app) envValues(files []string, interpolate bool) ([]seal.Value, error) {
	var out []seal.Value
	for _, file := range files {
		data, err := a.readFile(file)
		if err != nil {
			return nil, fmt.Errorf("--from-env-file: the file cannot be read (%w)", withoutPath(err))
		}
		lines, err := seal.ParseEnv(file, data)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			if l.Quoted {
				fmt.Fprintf(a.Err, "note: %s:%d: the value of %s is wrapped in quotes, which are kept\n", file, l.Line, l.Key)
			}
			if interpolate {
				text, err := seal.Expand(string(l.Data), a.LookupEnv)
				if err != nil {
					return nil, &manifest.Error{File: file, Line: l.Line, Column: 1, Field: l.Key.String(), Msg: err.Error()}
				}
				l.Data = []byte(text)
			}
			out = append(out, l.Value)
		}
	}
	return out, nil
}

// sealedValues collects --from-sealed-env-file and --from-sealed-file, which the
// ring of the workspace opens.
func (a *app) sealedValues(envFiles, files []string, ws manifest.Workspace) ([]seal.Value, error) {
	if len(envFiles)+len(files) == 0 {
		return nil, nil
	}
	k, err := a.openKeyring()
	if err != nil {
		return nil, err
	}
	ring, err := k.Ring(ws)
	if err != nil {
		return nil, err
	}
	var out []seal.Value
	for _, file := range envFiles {
		values, err := a.sealedEnv(file, ring)
		if err != nil {
			return nil, err
		}
		out = append(out, values...)
	}
	for _, s := range files {
		name, file, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usagef("--from-sealed-file wants KEY=FILE")
		}
		key, err := keyArg(name)
		if err != nil {
			return nil, err
		}
		data, err := a.readFile(file)
		if err != nil {
			return nil, fmt.Errorf("--from-sealed-file %s: the file cannot be read (%w)", key, withoutPath(err))
		}
		value, err := unseal.OpenBinary(file, data, ring)
		if err != nil {
			return nil, err
		}
		a.noteUnbound(file)
		out = append(out, seal.Value{Key: key, Data: value})
	}
	return out, nil
}

func (a *app) sealedEnv(file string, ring *keyring.Ring) ([]seal.Value, error) {
	data, err := a.readFile(file)
	if err != nil {
		return nil, fmt.Errorf("--from-sealed-env-file: the file cannot be read (%w)", withoutPath(err))
	}
	values, err := unseal.OpenDotenv(file, data, ring)
	if err == nil {
		a.noteUnbound(file)
	}
	return values, err
}

func (a *app) noteUnbound(file string) {
	fmt.Fprintf(a.Err, "note: %s was sealed by plain sops: nothing proves which secret its values belong to\n", file)
}
