package kustomize

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Stock is a stock kustomize that Verify compares with.
type Stock struct {
	Program string
	// Env of the program, and of the functions it runs: they find the keyring by it.
	Env []string
	// Options that Build had.
	Options BuildOptions
	// Placeholders: Env asks for dummy values, so what the program says can be shown.
	Placeholders bool
}

// Difference is where two builds differ. It holds no value.
type Difference struct {
	Object string // kind, namespace and name
	Field  string // dotted path; "" where the whole object is on one side only
	What   string
}

func (d Difference) String() string {
	if d.Field == "" {
		return d.Object + ": " + d.What
	}
	return d.Object + ": " + d.Field + ": " + d.What
}

// Verify builds dir with a stock kustomize too and returns where its objects differ from
// those of b, whatever their order. It has to let the program run functions, and refuses
// where they would be others than sealward's and s.Options does not allow them: they would
// see s.Env, and the keyring that it names.
func (b *Built) Verify(ctx context.Context, dir string, s Stock) ([]Difference, error) {
	if len(b.runs) > 0 && !(s.Options.Plugins && s.Options.Exec) {
		return nil, fmt.Errorf("%s build is not run, because it would run more than sealward from the PATH: %s; if you trust it, allow it with --enable-alpha-plugins --enable-exec", s.Program, strings.Join(b.runs, ", "))
	}
	args := []string{"build", "--enable-alpha-plugins", "--enable-exec"}
	if s.Options.AnyFolder {
		args = append(args, "--load-restrictor", "LoadRestrictionsNone")
	}
	if s.Options.Helm {
		args = append(args, "--enable-helm", "--helm-command", s.Options.HelmCommand)
	}
	c := exec.CommandContext(ctx, s.Program, append(args, dir)...)
	c.Env = s.Env
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	if err := c.Run(); err != nil {
		var exit *exec.ExitError
		switch {
		case !errors.As(err, &exit):
			return nil, fmt.Errorf("%s cannot be run: %w", s.Program, err)
		case s.Placeholders:
			return nil, fmt.Errorf("%s build failed (%w):\n%s", s.Program, err, strings.TrimSpace(said.String()))
		}
		return nil, fmt.Errorf("%s build failed (%w); what it said may hold values: see it with --placeholders, or run %[1]s %[3]s %[4]s. sealward check tells which generators stock kustomize cannot run", s.Program, err, strings.Join(args, " "), dir)
	}
	mine, err := b.YAML()
	if err != nil {
		return nil, err
	}
	ours, err := objects(mine)
	if err != nil {
		return nil, err
	}
	theirs, err := objects(out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%s build: %w", s.Program, err)
	}
	var found []Difference
	for _, name := range slices.Sorted(maps.Keys(both(ours, theirs))) {
		mine, here := ours[name]
		other, there := theirs[name]
		switch {
		case !there:
			found = append(found, Difference{Object: name, What: "only sealward build makes it"})
		case !here:
			found = append(found, Difference{Object: name, What: "only " + s.Program + " makes it"})
		default:
			found = compare(found, name, nil, mine, other)
		}
	}
	for i := range found {
		found[i].Object = shownObject(found[i].Object)
	}
	return found, nil
}

// plainObject is how the objects are named that Kubernetes takes.
var plainObject = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,62} ([-a-z0-9]+/)?[-a-z0-9.:]+( \([-a-z0-9./]+\))?$`)

// shownObject leaves out a name that is none: a patch or a replacement may have made a
// value of it, which is base64.
func shownObject(name string) string {
	if !plainObject.MatchString(name) {
		return "an object with a name that Kubernetes does not take"
	}
	return name
}

// both has the keys of two maps.
func both[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// objects reads a YAML stream, by kind, namespace and name.
func objects(stream []byte) (map[string]any, error) {
	out := map[string]any{}
	for d := yaml.NewDecoder(bytes.NewReader(stream)); ; {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, errors.New("the output is no YAML") // the error may repeat it
		}
		meta, _ := o["metadata"].(map[string]any)
		name := fmt.Sprintf("%v %v", o["kind"], meta["name"])
		if ns := meta["namespace"]; ns != nil {
			name = fmt.Sprintf("%v %v/%v", o["kind"], ns, meta["name"])
		}
		if version := fmt.Sprint(o["apiVersion"]); strings.Contains(version, "/") {
			name += " (" + version + ")"
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("the output has %s twice", shownObject(name))
		}
		out[name] = o
	}
}

// compare adds the fields in which two values differ.
func compare(found []Difference, object string, path []string, a, b any) []Difference {
	field := strings.Join(path, ".")
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(both(a, b))) {
				x, here := a[k]
				y, there := b[k]
				at := append(slices.Clone(path), k)
				switch {
				case !there:
					found = append(found, Difference{object, strings.Join(at, "."), "only sealward build has it"})
				case !here:
					found = append(found, Difference{object, strings.Join(at, "."), "only the other has it"})
				default:
					found = compare(found, object, at, x, y)
				}
			}
			return found
		}
	case []any:
		if b, ok := b.([]any); ok && len(a) == len(b) {
			for i := range a {
				found = compare(found, object, append(slices.Clone(path), fmt.Sprint(i)), a[i], b[i])
			}
			return found
		}
	default:
		if a == b {
			return found
		}
	}
	return append(found, Difference{object, field, "differs"})
}
