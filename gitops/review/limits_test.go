package review

import (
	"fmt"
	"strings"
	"testing"
)

// A name in YAML can have a million characters, and all below it hold its path.
func TestReferencesBelowALongName(t *testing.T) {
	refs := references("apps/kustomization.yaml", []byte("? "+strings.Repeat("é", 50_000)+"\n: ["+strings.Repeat("a.yaml, ", 1000)+"b.yaml]\n"))
	if len(refs) != 1001 {
		t.Fatalf("%d references", len(refs))
	}
	for _, r := range refs {
		if len(r.field) > 2*maxField {
			t.Fatalf("a field of %d bytes", len(r.field))
		}
	}
}

// More paths than a command line takes are asked for another way.
func TestFilesOfManyPaths(t *testing.T) {
	r := newTestRepo(t)
	paths := []string{dbFile, "workspaces/orders/secrets/orders-api"}
	for i := range 20_000 {
		paths = append(paths, fmt.Sprintf("apps/%0120d.yaml", i))
	}
	files, err := r.at("clean").Files(t.Context(), paths...)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Path)
	}
	if want := tokenFile + " " + webhookFile + " " + dbFile; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
}
