package kustomize_test

import (
	"context"
	"fmt"
	"os"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/sealward/sealward/plugins/kustomize"
)

func shim(u *kustomize.Unsealer) int {
	rw := &kio.ByteReadWriter{Reader: os.Stdin, Writer: os.Stdout, KeepReaderAnnotations: true}
	items, err := rw.Read()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var kept []*yaml.RNode
	for _, n := range items {
		if !kustomize.IsGenerator(n.GetApiVersion(), n.GetKind()) {
			kept = append(kept, n)
		}
	}
	items = kept
	var names []string
	for _, f := range []string{"files", "secrets", "sources", "secretFrom"} {
		if rw.FunctionConfig.Field(f) != nil {
			names = append(names, f)
		}
	}
	if len(names) > 0 {
		text := rw.FunctionConfig.MustString()
		g, err := kustomize.ParseGenerator("config", 1, []byte(text))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		dir, _ := os.Getwd()
		objects, err := u.Generate(context.Background(), dir, g)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, o := range objects {
			n, err := o.RNode()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			items = append(items, n)
		}
	}
	if err := rw.Write(items); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var _ = yaml.NewRNode
