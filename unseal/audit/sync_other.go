//go:build !linux

package audit

import "os"

type disk struct{ *os.File }
