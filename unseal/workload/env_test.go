package workload_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal/client"
	"github.com/sealward/sealward/unseal/serve"
	"github.com/sealward/sealward/unseal/workload"
)

func parsed[T any](t *testing.T, parse func(string) (T, error), s string) T {
	t.Helper()
	v, err := parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// entry is a secret of the workspace orders with these keys and values.
func entry(t *testing.T, name string, pairs ...string) client.Entry {
	t.Helper()
	e := client.Entry{Item: client.Item{Workspace: parsed(t, manifest.ParseWorkspace, "orders"), Name: parsed(t, manifest.ParseName, name)}}
	e.Secret = serve.SecretJSON{Metadata: serve.Metadata{Name: name, Workspace: "orders"}, Data: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		e.Secret.Data[pairs[i]] = pairs[i+1]
	}
	return e
}

func TestEnv(t *testing.T) {
	db, api := entry(t, "db", "user.name", "o", "password", "hunter2", "2nd", "x"), entry(t, "api", "token", "hunter3")
	for _, c := range []struct {
		entries []client.Entry
		prefix  string
		maps    []string
		want    string // names and values, or a part of the error
	}{
		{[]client.Entry{db, api}, "", nil, "PASSWORD=hunter2 TOKEN=hunter3 USER_NAME=o _2ND=x"},
		{[]client.Entry{db}, "app_", nil, "app_2ND=x app_PASSWORD=hunter2 app_USER_NAME=o"},
		{[]client.Entry{api}, "X_", []string{"token=PATH"}, "PATH=hunter3"},
		{[]client.Entry{api}, "", []string{"token=a", "orders/api/token=b"}, "a=hunter3 b=hunter3"},
		{[]client.Entry{db, entry(t, "db2", "PASSWORD", "hunter4")}, "", nil, "orders/db/password and orders/db2/PASSWORD would both be PASSWORD"},
		{[]client.Entry{db, entry(t, "db2", "password", "hunter4")}, "", []string{"orders/db2/password=OTHER"}, "OTHER=hunter4 PASSWORD=hunter2 USER_NAME=o _2ND=x"},
		{[]client.Entry{db, entry(t, "db2", "password", "hunter4")}, "", []string{"password=OTHER"}, "would both be OTHER"},
		{[]client.Entry{api}, "", []string{"orders/db/token=X"}, "no secret has the key"},
		{[]client.Entry{entry(t, "api", "token", "a\x00hunter2")}, "", nil, "NUL"},
		{[]client.Entry{entry(t, "api", "preload", "hunter2")}, "LD_", nil, "would set LD_PRELOAD"},
	} {
		var mappings []workload.Mapping
		for _, m := range c.maps {
			mappings = append(mappings, parsed(t, workload.ParseMapping, m))
		}
		env, err := workload.Env(c.entries, c.prefix, mappings)
		got := strings.Join(workload.List(nil, env), " ")
		if err != nil {
			got = err.Error()
			if !errors.Is(err, workload.ErrNames) || strings.Contains(got, "hunter") {
				t.Errorf("%v: %v", c.want, err)
			}
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	// However a key is spelled, what it becomes counts.
	for _, key := range []string{"path", "Ld-Preload", "ld.library.path", "DYLD_INSERT_LIBRARIES", "bash.env", "env", "ifs", "node-options", "pythonpath", "perl5opt", "git-ssh-command", "java.tool.options", "http.proxy", "home", "gconv.path", "ssl-cert-file", "sealward_server", "classpath"} {
		if env, err := workload.Env([]client.Entry{entry(t, "x", key, "v")}, "", nil); err == nil {
			t.Errorf("%s became %v", key, env)
		}
		if _, err := workload.Env([]client.Entry{entry(t, "x", key, "v")}, "APP_", nil); err != nil {
			t.Errorf("%s behind a prefix: %v", key, err)
		}
	}
	for _, m := range []string{"", "a", "a=", "a=1b", "a=b=c", "a=b c", "=", "a=B\x00", "a=É"} {
		if _, err := workload.ParseMapping(m); err == nil {
			t.Errorf("mapping %q was accepted", m)
		}
	}
	if got := workload.List([]string{"A=1", "B=2", "B=3"}, map[string]string{"B": "x"}); !slices.Equal(got, []string{"A=1", "B=x"}) {
		t.Errorf("%v", got)
	}
}
