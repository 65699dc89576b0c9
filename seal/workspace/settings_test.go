package workspace

import (
	"strings"
	"testing"

	"github.com/sealward/sealward/seal/manifest"
)

func TestSettingsOfBuilds(t *testing.T) {
	s, err := ParseSettings([]byte("builds:\n  overlays: [orders]\n  overlays/prod: [orders, payments, instance]\n  overlays/empty: []\nroots:\n  .: infra\n  clusters/prod: payments\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		folder, ws string
		allowed    bool
	}{
		{"overlays/dev", "orders", true}, {"overlays/dev", "payments", false},
		{"overlays/prod", "payments", true}, {"overlays/prod/eu/north", "instance", true},
		{"overlays/production", "payments", false}, // another folder, not one below
		{"overlays/empty", "orders", false}, {"base", "orders", false}, {".", "orders", false},
	} {
		ws, _ := manifest.ParseScope(c.ws)
		if allowed, stated := s.Buildable(c.folder, ws); allowed != c.allowed || !stated {
			t.Errorf("%s, %s: allowed %v, stated %v", c.folder, c.ws, allowed, stated)
		}
	}
	for file, want := range map[string]string{"clusters/prod/db.yaml": "payments", "clusters/dev/db.yaml": "infra", "db.yaml": "infra"} {
		if ws, _, ok := s.Roots.Of(file); !ok || ws.String() != want {
			t.Errorf("%s is of %s", file, ws)
		}
	}
	if allowed, stated := (Settings{}).Buildable("overlays", manifest.Public()); allowed || stated {
		t.Error("nothing is stated where there are no settings")
	}
}

func TestSettingsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"builds: {./overlays: [orders]}":      "no folder",
		"builds: {overlays/: [orders]}":       "no folder",
		"builds: {/overlays: [orders]}":       "no folder",
		"builds: {overlays/../x: [orders]}":   "no folder",
		"builds: {overlays/*: [orders]}":      "no folder",
		"builds: {overlays: [Orders]}":        "builds.overlays",
		"builds: {overlays: orders}":          "line 1",
		"roots: {workspaces/orders: orders}":  "workspaces/",
		"roots: {clusters: instance}":         "roots.clusters",
		"roots: {clusters: infra, base: [x]}": "line 1",
	} {
		if _, err := ParseSettings([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
