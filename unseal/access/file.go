package access

import (
	"fmt"
	"strings"

	"github.com/sealward/sealward/seal/manifest"
)

// ReadFile judges what stands at a path that manifest.Locate calls a policy's. read
// gives its content; it is nil for what is no plain file, such as a link. The error is
// for people: it says what is wrong with a file that is broken. Everybody who decides
// from files goes through here, so that the agent and a review never differ.
func ReadFile(path string, place manifest.Place, read func() ([]byte, error)) (File, error) {
	broken := File{Path: path, Closes: true}
	if read == nil {
		return broken, fmt.Errorf("%s: is a symbolic link or submodule; a grant or role must be a plain file", path)
	}
	data, err := read()
	if err != nil {
		return broken, fmt.Errorf("%s: %w", path, err)
	}
	m, err := manifest.Parse(path, data)
	if err == nil {
		if place.Name.IsZero() { // an odd name: Locate says what is wrong with it
			_, _, err = manifest.Locate(path)
			err = fmt.Errorf("%s: %w", path, err)
		} else {
			err = m.CheckPlace(place)
		}
	}
	if err != nil {
		broken.Closes = !manifest.IsAllowGrant(data)
		return broken, err
	}
	return File{Path: path, Manifest: m}, nil
}

// ClosedBy says which scope's policy a path may hide when nothing valid stands there:
// one that is, or stands in the place of, a folder of grants.
func ClosedBy(path string) (manifest.Workspace, bool) {
	part := strings.Split(path, "/")
	switch {
	case part[0] == "workspaces" && len(part) >= 2:
		ws, err := manifest.ParseWorkspace(part[1])
		if err != nil {
			return manifest.Workspace{}, false
		}
		return ws, len(part) == 2 || part[2] == "grants"
	case path == "." || part[0] == "workspaces":
		return manifest.Instance(), true
	case part[0] == "instance":
		return manifest.Instance(), len(part) == 1 || part[1] == "grants"
	}
	return manifest.Workspace{}, false
}
