package manifest

import (
	"embed"
	"fmt"
)

//go:embed schema/*.json
var schemas embed.FS

// Schema returns the JSON Schema (draft 2020-12) of a kind of manifest, or of a
// KubernetesSchema, for editors. It accepts both forms, before and after sealing. Some rules are beyond
// a schema (keys that stand twice, comments among values): Parse decides.
func Schema(k Kind) ([]byte, error) {
	text, err := schemas.ReadFile("schema/" + string(k) + ".json")
	if err != nil {
		return nil, fmt.Errorf("there is no schema of %.40q; secret, instance-secret, kubernetes-secret, grant or role", k)
	}
	return text, nil
}
