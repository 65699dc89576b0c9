//go:build unix

package keyring

import (
	"io/fs"
	"testing"
)

func TestExposed(t *testing.T) {
	const root, agent, dana = 0, 65532, 1000
	for _, c := range []struct {
		what           string
		mode           fs.FileMode
		owner, process int
		want           bool
	}{
		{"the owner's alone", 0o600, agent, agent, false},
		{"the owner's, group may read", 0o640, agent, agent, true},
		{"the owner's, all may read", 0o644, agent, agent, true},
		{"a Secret mounted with fsGroup", 0o440, root, agent, false},
		{"root's for a group that may write it", 0o460, root, agent, true},
		{"root's for everybody", 0o444, root, agent, true},
		{"somebody else's for a group", 0o440, dana, agent, true},
		{"root's own, group may read", 0o640, root, root, true},
		{"root's own", 0o400, root, root, false},
	} {
		if got := exposed(c.mode, c.owner, c.process); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
