// Package vectors holds sealed files, good ones and one for each way to tamper,
// with what must come of each. docs/format.md describes them for other programs.
package vectors

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
	"github.com/sealward/sealward/unseal/keyring"
)

// A new way to tamper is added to vectors; go test ./test/vectors -update then
// seals all of them anew.
var update = flag.Bool("update", false, "write the stored vectors anew")

// outcome is what opening a file at a place comes to, as vector.Expect says it.
func outcome(text, place string, rings func(manifest.Workspace) (*keyring.Ring, error)) (string, *unseal.Opened, error) {
	o, err := open(text, place, rings)
	var tamper *seal.TamperError
	switch {
	case err == nil:
		return "ok", o, nil
	case errors.As(err, &tamper):
		return string(tamper.Reason), nil, err
	default:
		return string(unseal.Classify(err)), nil, err
	}
}

func open(text, place string, rings func(manifest.Workspace) (*keyring.Ring, error)) (*unseal.Opened, error) {
	at, _, err := manifest.Locate(place)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(place, []byte(text))
	if err == nil {
		err = m.CheckSealed()
	}
	if err == nil {
		err = m.CheckPlace(at)
	}
	if err == nil {
		err = m.SettleIn(at.Scope)
	}
	if err != nil {
		return nil, err
	}
	ring, err := rings(at.Scope)
	if err != nil {
		return nil, err
	}
	return unseal.Open(m, ring, unseal.Options{})
}

// ringsOf gives orders and the instance one identity, payments the other.
func ringsOf(orders, payments string) func(manifest.Workspace) (*keyring.Ring, error) {
	return func(ws manifest.Workspace) (*keyring.Ring, error) {
		id := orders
		if ws.String() == "payments" {
			id = payments
		}
		return keyring.ParseRing(ws, []byte(id))
	}
}

func (k *kit) open(sealed string) *unseal.Opened {
	k.t.Helper()
	orders, payments := storedIdentities(k.t)
	o, err := open(sealed, ordersDB, ringsOf(orders.String(), payments.String()))
	if err != nil {
		k.t.Fatal(err)
	}
	return o
}

// storedIdentities are the keys of the vectors. They protect nothing.
func storedIdentities(t *testing.T) (orders, payments *age.X25519Identity) {
	t.Helper()
	read := func(name string) *age.X25519Identity {
		f, err := os.Open(filepath.Join("keys", name+".agekey"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ids, err := age.ParseIdentities(f)
		if err != nil {
			t.Fatal(err)
		}
		return ids[0].(*age.X25519Identity)
	}
	return read("orders"), read("payments")
}

func run(t *testing.T, all []vector) {
	t.Helper()
	orders, payments := storedIdentities(t)
	rings := ringsOf(orders.String(), payments.String())
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			got, o, err := outcome(v.text, v.Place, rings)
			if got != v.Expect {
				t.Fatalf("%s, want %s: %v\n%s", got, v.Expect, err, v.text)
			}
			if err != nil {
				for _, secret := range secretTexts() {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error repeats a value: %v", err)
					}
				}
				if !strings.Contains(err.Error(), v.Place) {
					t.Errorf("the error does not name the file: %v", err)
				}
				return
			}
			values := map[string]string{}
			for _, value := range o.Values {
				values[value.Key.String()] = base64.StdEncoding.EncodeToString(value.Data)
			}
			if v.Values != nil && !maps.Equal(values, v.Values) {
				t.Errorf("values %v, want %v", values, v.Values)
			}
		})
	}
}

// TestTampering makes every case anew, so that sealing as it is today is tested.
func TestTampering(t *testing.T) {
	orders, payments := storedIdentities(t)
	run(t, newKit(t, orders, payments).vectors())
}

// TestVectors opens the stored files: what was sealed once must open for ever, and
// what was refused must stay refused.
func TestVectors(t *testing.T) {
	orders, payments := storedIdentities(t)
	made := newKit(t, orders, payments).vectors()
	if *update {
		store(t, made)
	}
	all := load(t)
	names := func(in []vector) (out []string) {
		for _, v := range in {
			out = append(out, v.Name+" "+v.Expect)
		}
		slices.Sort(out)
		return out
	}
	if !slices.Equal(names(made), names(all)) {
		t.Errorf("the stored vectors are not those that are made; go test ./test/vectors -update")
	}
	if len(all) < 90 {
		t.Errorf("only %d vectors", len(all))
	}
	run(t, all)
}

func load(t *testing.T) []vector {
	t.Helper()
	data, err := os.ReadFile("vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("files")
	if err != nil || len(files) != len(all) {
		t.Fatalf("%d files, %d vectors: %v", len(files), len(all), err)
	}
	for i := range all {
		text, err := os.ReadFile(filepath.Join("files", all[i].File))
		if err != nil {
			t.Fatal(err)
		}
		all[i].text = string(text)
	}
	return all
}

func store(t *testing.T, all []vector) {
	t.Helper()
	if err := os.RemoveAll("files"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("files", 0o777); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b vector) int { return strings.Compare(a.File, b.File) })
	for _, v := range all {
		if err := os.WriteFile(filepath.Join("files", v.File), []byte(v.text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("vectors.json", append(text, '\n'), 0o666); err != nil {
		t.Fatal(err)
	}
}

// Opening is quick also for what is refused: no vector may cost a second.
func TestNoVectorIsSlow(t *testing.T) {
	orders, payments := storedIdentities(t)
	rings := ringsOf(orders.String(), payments.String())
	for _, v := range load(t) {
		started := time.Now()
		_, _, _ = outcome(v.text, v.Place, rings)
		if took := time.Since(started); took > 5*time.Second {
			t.Errorf("%s took %s", v.Name, took)
		}
	}
}
