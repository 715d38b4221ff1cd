package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this test binary as akidbd: flags, messages, exit codes and signals as a person sees them.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"akidbd": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("ORT", os.Getenv("AKIDB_TEST_ORT"))
			env.Setenv("MODEL", os.Getenv("AKIDB_TEST_MODEL"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			return cond == "real" && os.Getenv("AKIDB_TEST_ORT") != "" && os.Getenv("AKIDB_TEST_MODEL") != "", nil
		},
	})
}
