package manifest

import (
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
)

// IsSealedValue takes what this pattern takes, with strict base64 in it.
var sealedPattern = regexp.MustCompile(`^ENC\[AES256_GCM,data:([A-Za-z0-9+/]+={0,2}),iv:([A-Za-z0-9+/]{43}=),tag:([A-Za-z0-9+/]{22}==),type:(str|int|float|bool|time)\]$`)

func isSealedByPattern(s string) bool {
	m := sealedPattern.FindStringSubmatch(s)
	if m == nil {
		return false
	}
	for _, part := range m[1:4] {
		if _, err := base64.StdEncoding.Strict().DecodeString(part); err != nil {
			return false
		}
	}
	return true
}

func TestIsSealedValue(t *testing.T) {
	iv, tag := strings.Repeat("A", 42)+"E=", strings.Repeat("B", 21)+"Q=="
	taken := 0
	for _, data := range []string{"", "YQ==", "YWI=", "YWJj", "YR==", "YW=", "YW\nJj", strings.Repeat("YWJj", 200)} {
		for _, kind := range []string{"str", "int", "float", "bool", "time", "bytes", "comment", ""} {
			value := "ENC[AES256_GCM,data:" + data + ",iv:" + iv + ",tag:" + tag + ",type:" + kind + "]"
			variants := []string{value, value + "\n", " " + value, value + value, strings.ToLower(value)}
			if len(value) < 200 {
				for i := range value { // each byte left out, doubled, changed
					variants = append(variants, value[:i]+value[i+1:], value[:i]+value[i:i+1]+value[i:])
					for _, c := range "=,:]\n\r-_Aa\x00" {
						variants = append(variants, value[:i]+string(c)+value[i+1:])
					}
				}
			}
			for _, v := range variants {
				want := isSealedByPattern(v)
				if IsSealedValue(v) != want {
					t.Errorf("%q: %v, want %v", v, !want, want)
				}
				if want {
					taken++
				}
			}
		}
	}
	if taken < 20 {
		t.Errorf("only %d values were taken", taken)
	}
}
