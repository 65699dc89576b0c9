// Package workload gives a program the secrets that it names: as environment, or as files
// that are replaced whole. Where the values come from is in unseal/client.
//
// Most callers need [Env] for a process, and [Parse] and [Folder.Write] for files.
package workload

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/client"
)

// ErrNames: keys cannot become variables as asked. The errors that wrap it name keys
// and variables, never values.
var ErrNames = errors.New("the environment cannot be made")

// Mapping gives one key a variable of its own.
type Mapping struct {
	Secret string // WORKSPACE/NAME; "" means every secret that has the key
	Key    string
	Name   string
}

var (
	variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	prefix   = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)?$`)
)

// ParseMapping reads [WORKSPACE/NAME/]KEY=VARIABLE.
func ParseMapping(s string) (Mapping, error) {
	key, name, ok := strings.Cut(s, "=")
	if !ok || !variable.MatchString(name) {
		return Mapping{}, errors.New("a mapping is KEY=VARIABLE or WORKSPACE/NAME/KEY=VARIABLE, and a variable has letters, digits and _")
	}
	m := Mapping{Key: key, Name: name}
	if i := strings.LastIndexByte(key, '/'); i >= 0 {
		m.Secret, m.Key = key[:i], key[i+1:]
	}
	return m, nil
}

// CheckPrefix refuses what cannot begin a variable's name.
func CheckPrefix(s string) error {
	if !prefix.MatchString(s) {
		return errors.New("a prefix has letters, digits and _, and no digit in front")
	}
	return nil
}

// Env makes the variables of entries, sorted by name: unseal.EnvName of each key behind
// the prefix, or what a mapping says, as it is. Refused with ErrNames: two keys of one
// name, a mapping without its key, a value with a NUL byte, and a name by which a program or its loader is
// steered (LD_PRELOAD, PATH, …) unless a mapping gives it.
func Env(entries []client.Entry, prefix string, mappings []Mapping) (map[string]string, error) {
	out, from := map[string]string{}, map[string]string{}
	used := make([]bool, len(mappings))
	for _, e := range entries {
		for _, v := range e.Secret.Values() {
			key := e.Item.String() + "/" + v.Key
			var names []string
			for i, m := range mappings {
				if m.Key == v.Key && (m.Secret == "" || m.Secret == e.Item.String()) {
					names = append(names, m.Name)
					used[i] = true
				}
			}
			if names == nil {
				// Behind a prefix a digit in front needs no _.
				name := unseal.EnvName(v.Key)
				if prefix != "" {
					name = prefix + unseal.EnvName("_" + v.Key)[1:]
				}
				if steers(name) {
					return nil, fmt.Errorf("%w: %s would set %s, which steers programs; give it another name, or this one by hand: --map %s=%[3]s", ErrNames, key, name, v.Key)
				}
				names = []string{name}
			}
			if bytes.IndexByte(v.Data, 0) >= 0 {
				return nil, fmt.Errorf("%w: %s has a NUL byte, which no variable can hold; use sealward render", ErrNames, key)
			}
			for _, name := range names {
				if other, twice := from[name]; twice {
					return nil, fmt.Errorf("%w: %s and %s would both be %s; map one of them: --map %s=OTHER_NAME", ErrNames, other, key, name, key)
				}
				from[name], out[name] = key, string(v.Data)
			}
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("%w: no secret has the key %.253q of --map", ErrNames, mappings[i].Key)
	}
	return out, nil
}

// List gives variables as os/exec takes them: those of base that vars does not set, then vars.
func List(base []string, vars map[string]string) (out []string) {
	for _, line := range base {
		name, _, _ := strings.Cut(line, "=")
		if _, set := vars[name]; !set {
			out = append(out, line)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, name+"="+vars[name])
	}
	return out
}

// steers reports names with which whoever may add a key to a secret would choose what
// code a program runs, whom it talks to, or where it looks for files.
func steers(name string) bool {
	name = strings.ToUpper(name)
	for _, p := range []string{"LD_", "DYLD_", "BASH_", "GIT_", "PYTHON", "PERL", "RUBY", "NODE_", "NPM_", "LUA_", "JAVA_", "_JAVA", "JDK_", "DOTNET_", "COMPLUS_", "CORECLR_", "COR_", "PHP", "SSH_", "GLIBC_", "MALLOC_", "LC_", "SEALWARD_", "SOPS_", "CURL_", "SSL_", "OPENSSL_", "KUBECONFIG", "XDG_"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return slices.Contains([]string{"PATH", "HOME", "SHELL", "ENV", "IFS", "USER", "LOGNAME", "PWD", "OLDPWD", "CDPATH", "PS1", "PS4", "PROMPT_COMMAND", "SHELLOPTS", "BASHOPTS", "GLOBIGNORE",
		"CLASSPATH", "GOFLAGS", "GODEBUG", "GOTRACEBACK", "TMPDIR", "TMP", "TEMP", "EDITOR", "VISUAL", "PAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "MANPAGER", "TERMINFO", "TERMCAP",
		"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "HOSTALIASES", "RES_OPTIONS", "LOCALDOMAIN", "RESOLV_HOST_CONF", "LOCPATH", "NLSPATH", "GCONV_PATH", "GETCONF_DIR",
		"LANG", "LANGUAGE", "TZ", "TZDIR", "MAIL", "ZDOTDIR", "FPATH", "PATHEXT", "COMSPEC", "SYSTEMROOT", "WINDIR"}, name)
}
