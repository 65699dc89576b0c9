package gitops_test

import (
	"flag"
	"os"
	"testing"

	"github.com/sealward/sealward/unseal/unsealtest"
)

// logged is what the agents of these tests logged.
var logged unsealtest.LogLines

func TestMain(m *testing.M) {
	flag.Parse()
	run := flag.Lookup("test.run").Value.String()
	// test/faults takes the state folder's permission away.
	os.Exit(logged.Run(m, run == "", "the state folder cannot be written"))
}
