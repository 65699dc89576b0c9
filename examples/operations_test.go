package examples

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The rules are read and tried by Prometheus's own tool, and name only metrics that
// the agent has.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("promtool is missing: make tools")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "tests.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	text, err := os.ReadFile("prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../gitops/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`sealward_([a-z_]+)`).FindAllStringSubmatch(string(text), -1) {
		if short := strings.TrimSuffix(name[1], "_bucket"); !strings.Contains(string(source), `"`+short+`"`) && !strings.Contains(string(source), `"sealward_`+short+`"`) {
			t.Errorf("the agent has no metric %s", name[0])
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("prometheus/tests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]bool{} // whether each case has it fire
	var tried struct {
		Tests []struct {
			Cases []struct {
				Alert string `yaml:"alertname"`
				Fire  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(tests, &tried); err != nil {
		t.Fatal(err)
	}
	for _, c := range tried.Tests[0].Cases {
		cases[c.Alert] = append(cases[c.Alert], len(c.Fire) > 0)
	}
	for _, r := range rules.Groups[0].Rules {
		if !slices.Contains(cases[r.Alert], true) || !slices.Contains(cases[r.Alert], false) {
			t.Errorf("%s has no case in which it fires, or none in which it is quiet", r.Alert)
		}
		if !strings.Contains(r.Annotations["summary"], "$labels.instance") {
			t.Errorf("%s does not say which agent", r.Alert)
		}
	}
}

// The unit starts the agent with flags that it has, ends it after its drain, and
// keeps the promises that docs/agent.md makes.
func TestSystemdUnit(t *testing.T) {
	text, err := os.ReadFile("systemd/sealward.service")
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.Command("sealward", "agent", "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "[") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Errorf("%q is no directive", line)
		}
		set[name] = value
	}
	for _, flag := range regexp.MustCompile(` (-c|--[a-z-]+)`).FindAllString(set["ExecStart"], -1) {
		if !strings.Contains(string(help), flag) {
			t.Errorf("sealward agent has no flag%s", flag)
		}
	}
	for name, want := range map[string]string{"LimitCORE": "0", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": "", "ExecReload": "/bin/kill -HUP $MAINPID", "TimeoutStopSec": "30s", "User": "sealward"} {
		if got, is := set[name]; !is || got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
