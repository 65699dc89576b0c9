package propose

import (
	"strings"
	"testing"
)

func TestNewRequest(t *testing.T) {
	const branch, base = "secrets/orders-db-r-20270102-030405", "main"
	for _, c := range []struct{ address, forge, want string }{
		{"git@github.com:acme/secrets.git", "", "https://github.com/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405?expand=1"},
		{"https://github.com/acme/secrets", "", "https://github.com/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405?expand=1"},
		{"https://dana:ghp_abc@github.com/acme/secrets.git/", "", "https://github.com/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405?expand=1"},
		{"ssh://git@ssh.github.com:443/acme/secrets.git", "", "https://github.com/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405?expand=1"},
		{"ssh://git@git.example.com:2222/acme/secrets.git", "github", "https://git.example.com/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405?expand=1"},
		{"git@gitlab.example.com:platform/data/secrets.git", "", "https://gitlab.example.com/platform/data/secrets/-/merge_requests/new?merge_request%5Bsource_branch%5D=secrets%2Forders-db-r-20270102-030405&merge_request%5Btarget_branch%5D=main"},
		{"https://gitlab.example.com:8443/platform/secrets.git", "", "https://gitlab.example.com:8443/platform/secrets/-/merge_requests/new?merge_request%5Bsource_branch%5D=secrets%2Forders-db-r-20270102-030405&merge_request%5Btarget_branch%5D=main"},
		{"git@codeberg.org:acme/secrets.git", "", "https://codeberg.org/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405"},
		{"https://example.com/forge/acme/secrets.git", "forgejo", "https://example.com/forge/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405"},
		{"http://gitea.example.com:3000/acme/secrets.git", "", "http://gitea.example.com:3000/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405"},
		{"git@bitbucket.org:acme/secrets.git", "", "https://bitbucket.org/acme/secrets/pull-requests/new?source=secrets%2Forders-db-r-20270102-030405&dest=main"},
		{"ssh://git@bitbucket.example.com:7999/PLAT/secrets.git", "", "https://bitbucket.example.com/projects/PLAT/repos/secrets/pull-requests?create&sourceBranch=refs%2Fheads%2Fsecrets%2Forders-db-r-20270102-030405&targetBranch=refs%2Fheads%2Fmain"},
		{"https://dana@bitbucket.example.com/scm/PLAT/secrets.git", "", "https://bitbucket.example.com/projects/PLAT/repos/secrets/pull-requests?create&sourceBranch=refs%2Fheads%2Fsecrets%2Forders-db-r-20270102-030405&targetBranch=refs%2Fheads%2Fmain"},
		{"https://git.example.com/bb/scm/~dana/secrets.git", "bitbucket", "https://git.example.com/bb/users/dana/repos/secrets/pull-requests?create&sourceBranch=refs%2Fheads%2Fsecrets%2Forders-db-r-20270102-030405&targetBranch=refs%2Fheads%2Fmain"},
		{"ssh://git@[2001:db8::1]:22/acme/secrets.git", "gitea", "https://[2001:db8::1]/acme/secrets/compare/main...secrets/orders-db-r-20270102-030405"},
		{"git@git.example.com:acme/secrets.git", "", ""}, // no kind is known
		{"git@github.com:secrets.git", "", ""},           // no owner
		{"https://github.com/acme/my repo%23.git", "", "https://github.com/acme/my%20repo%23/compare/main...secrets/orders-db-r-20270102-030405?expand=1"},
	} {
		r, ok := ParseRemote(c.address)
		kind, err := ParseForge(c.forge)
		if !ok || err != nil {
			t.Fatalf("%s: %v, %v", c.address, ok, err)
		}
		if kind == "" {
			kind = r.guess()
		}
		if got := r.NewRequest(kind, branch, base); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.address, got, c.want)
		}
	}
}

// What a branch may be called must not end the path or the parameter it stands in.
func TestNewRequestEscapes(t *testing.T) {
	r, _ := ParseRemote("git@example.com:acme/secrets.git")
	for kind, want := range map[Forge]string{
		GitHub:    "/compare/rel%23ease...a&b=%3Fc%25%23d/e+f?expand=1",
		GitLab:    "source_branch%5D=a%26b%3D%3Fc%25%23d%2Fe%2Bf&merge_request%5Btarget_branch%5D=rel%23ease",
		Gitea:     "/compare/rel%23ease...a&b=%3Fc%25%23d/e+f",
		Bitbucket: "sourceBranch=refs%2Fheads%2Fa%26b%3D%3Fc%25%23d%2Fe%2Bf&targetBranch=refs%2Fheads%2Frel%23ease",
	} {
		if got := r.NewRequest(kind, "a&b=?c%#d/e+f", "rel#ease"); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s, want it to end in %s", kind, got, want)
		}
	}
}

func TestNoRemoteHost(t *testing.T) {
	for _, address := range []string{"", "../remote.git", "/srv/git/secrets.git", `C:\git\secrets.git`, "file:///srv/git/secrets.git", "https://", "ext::sh -c x", "git@github.com:", "https://github.com/../../x", "./with:colon"} {
		if r, ok := ParseRemote(address); ok {
			t.Errorf("%q was read as %+v", address, r)
		}
	}
}

func TestTold(t *testing.T) {
	r, _ := ParseRemote("ssh://git@git.example.com:2222/acme/secrets.git")
	for said, want := range map[string]string{
		"remote: Create a pull request:\nremote:   https://git.example.com/acme/secrets/compare/main...x \n": "https://git.example.com/acme/secrets/compare/main...x",
		"remote: see https://git.example.com:8443/new\n":                                                     "https://git.example.com:8443/new",
		"remote: https://elsewhere.example.com/phish https://git.example.com/ok\n":                           "https://git.example.com/ok",
		"remote: (see <https://git.example.com/a\u009b2J>).\n":                                               "https://git.example.com/a",
		"remote: https://git.example.com@elsewhere.example.com/\n":                                           "",
		"remote: https://git.example.com.elsewhere.example.com/\n":                                           "",
		"remote: http://git.example.com/plain\n":                                                             "", // the way there is encrypted
		"To https://git.example.com/acme/secrets\n":                                                          "", // not the remote's word
	} {
		if got := r.told(said); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

func TestWithoutCredentials(t *testing.T) {
	for text, want := range map[string]string{
		"unable to access 'https://dana:gh@p_x@host.example/a.git/': no":  "unable to access 'https://host.example/a.git/': no",
		"access 'https://host.example/a.git?x=1&private_token=gh_x/': no": "access 'https://host.example/a.git?x=1&private_token=…': no",
		"To ssh://git@host.example/a":                                     "To ssh://host.example/a",
		"https://token@host.example https://host.example/a@b":             "https://host.example https://host.example/a@b",
	} {
		if got := withoutCredentials(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
