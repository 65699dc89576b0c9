package kustomize

import (
	"errors"

	"go.yaml.in/yaml/v3"

	"github.com/sealward/sealward/seal"
	"github.com/sealward/sealward/seal/manifest"
	"github.com/sealward/sealward/unseal"
)

func placeholders(m *manifest.Manifest) (*unseal.Opened, error) { return nil, errors.New("stub") }
func placeholderObjects(file string, data []byte) ([]*yaml.Node, error) {
	return nil, errors.New("stub")
}
func placeholderText(file string, data []byte) ([]byte, error)   { return nil, errors.New("stub") }
func placeholderBinary(file string, data []byte) ([]byte, error) { return nil, errors.New("stub") }
func placeholderDotenv(file string, data []byte) ([]seal.Value, error) {
	return nil, errors.New("stub")
}
