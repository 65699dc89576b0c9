package propose

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// Forge is a kind of Git host, which decides the address that opens a pull request.
type Forge string

// The kinds. Gitea is Forgejo and Codeberg too; Bitbucket is Cloud on bitbucket.org
// and Server elsewhere.
const (
	GitHub    Forge = "github"
	GitLab    Forge = "gitlab"
	Gitea     Forge = "gitea"
	Bitbucket Forge = "bitbucket"
)

// Forges lists the kinds.
func Forges() []Forge { return []Forge{GitHub, GitLab, Gitea, Bitbucket} }

// ParseForge reads a kind; "" is the unknown one.
func ParseForge(s string) (Forge, error) {
	f := Forge(strings.ToLower(s))
	switch {
	case s == "":
		return "", nil
	case f == "forgejo" || f == "codeberg":
		return Gitea, nil
	case slices.Contains(Forges(), f):
		return f, nil
	}
	return "", fmt.Errorf("forge %.40q is unknown; one of github, gitlab, gitea (Forgejo, Codeberg), bitbucket", s)
}

// Remote is where a repository is on a Git host, as far as its web address goes. It
// holds no credential.
type Remote struct {
	Scheme string   // of web addresses
	Host   string   // with the port of a web address
	Path   []string // of the repository, unescaped, without .git
	// ssh says that the host's name comes from an address that only ssh must understand.
	ssh bool
}

// scp is git's short form user@host:path; what has a slash before the colon is a
// local path.
var scp = regexp.MustCompile(`^(?:[^@/:]*@)?(\[[0-9a-fA-F:]+\]|[^@/:\[\]]+):(.*)$`)

// ParseRemote reads the address of a remote. ok is false for one that is on no host,
// such as a folder.
func ParseRemote(address string) (r Remote, ok bool) {
	path := ""
	if strings.Contains(address, "://") {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" {
			return Remote{}, false
		}
		r.Host, r.Scheme, path = strings.ToLower(u.Host), "https", u.Path
		switch strings.ToLower(u.Scheme) {
		case "https":
		case "http":
			r.Scheme = "http"
		case "ssh", "git+ssh", "ssh+git":
			r.Host, r.ssh = strings.ToLower(u.Hostname()), true // its port is not that of the web
			if strings.Contains(r.Host, ":") {
				r.Host = "[" + r.Host + "]"
			}
		default:
			return Remote{}, false
		}
	} else {
		m := scp.FindStringSubmatch(address)
		if m == nil || len(m[1]) == 1 || strings.HasPrefix(m[2], ":") { // C:\repo, ext::command
			return Remote{}, false
		}
		r.Scheme, r.Host, r.ssh, path = "https", strings.ToLower(m[1]), true, m[2]
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return Remote{}, false
		}
		r.Path = append(r.Path, part)
	}
	// Where the hosts take SSH on port 443.
	if web, other := map[string]string{"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com", "altssh.bitbucket.org": "bitbucket.org"}[r.Host]; other && r.ssh {
		r.Host = web
	}
	return r, true
}

// resolveAlias replaces a name that only the user's ssh configuration knows, such as
// git@work:owner/repository.git, by the host's. ssh itself answers, without connecting.
func (r *Remote) resolveAlias(ctx context.Context) {
	if !r.ssh || strings.ContainsAny(r.Host, ".:") || strings.HasPrefix(r.Host, "-") {
		return
	}
	out, err := exec.CommandContext(ctx, "ssh", "-G", "--", r.Host).Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "hostname "); ok && !strings.ContainsAny(name, " /@") {
			if again, ok := ParseRemote("ssh://" + name + "/" + strings.Join(r.Path, "/")); ok {
				r.Host = again.Host
			}
		}
	}
}

// guess is the kind of host that a name shows.
func (r Remote) guess() Forge {
	for _, g := range []struct {
		word string
		kind Forge
	}{{"github", GitHub}, {"gitlab", GitLab}, {"gitea", Gitea}, {"forgejo", Gitea}, {"codeberg", Gitea}, {"bitbucket", Bitbucket}} {
		if strings.Contains(r.Host, g.word) {
			return g.kind
		}
	}
	return ""
}

// NewRequest is the address that opens the form for a pull (or merge) request of
// branch into base, "" when a repository cannot be where r says on such a host.
func (r Remote) NewRequest(kind Forge, branch, base string) string {
	if len(r.Path) < 2 {
		return ""
	}
	repo := r.Scheme + "://" + r.Host + "/" + segments(strings.Join(r.Path, "/"))
	switch kind {
	case GitHub:
		return repo + "/compare/" + segments(base) + "..." + segments(branch) + "?expand=1"
	case Gitea:
		return repo + "/compare/" + segments(base) + "..." + segments(branch)
	case GitLab:
		return repo + "/-/merge_requests/new?merge_request%5Bsource_branch%5D=" + url.QueryEscape(branch) + "&merge_request%5Btarget_branch%5D=" + url.QueryEscape(base)
	case Bitbucket:
		if r.Host == "bitbucket.org" {
			return repo + "/pull-requests/new?source=" + url.QueryEscape(branch) + "&dest=" + url.QueryEscape(base)
		}
		return r.bitbucketServer() + "/pull-requests?create&sourceBranch=" + url.QueryEscape("refs/heads/"+branch) + "&targetBranch=" + url.QueryEscape("refs/heads/"+base)
	}
	return ""
}

// bitbucketServer is the page of [context/]scm/KEY/repo over HTTPS, KEY/repo over SSH.
// The key ~NAME is a person's.
func (r Remote) bitbucketServer() string {
	n := len(r.Path)
	before, key, repo := r.Path[:n-2], r.Path[n-2], r.Path[n-1]
	if k := len(before); k > 0 && before[k-1] == "scm" {
		before = before[:k-1]
	}
	owner := []string{"projects", key}
	if name, person := strings.CutPrefix(key, "~"); person {
		owner = []string{"users", name}
	}
	return r.Scheme + "://" + r.Host + "/" + segments(strings.Join(slices.Concat(before, owner, []string{"repos", repo}), "/"))
}

// segments escapes what is between the slashes of a path.
func segments(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// webAddress is printable ASCII, without what may stand around an address.
var webAddress = regexp.MustCompile(`https?://[!#-&(-;=?-_a-~]+`)

// told finds an address on the remote's own host in what the remote said during a
// push: many hosts name the page there.
func (r Remote) told(said string) string {
	for line := range strings.Lines(said) {
		text, fromRemote := strings.CutPrefix(line, "remote:")
		if !fromRemote {
			continue
		}
		for _, found := range webAddress.FindAllString(text, -1) {
			found = strings.TrimRight(found, ".,;)")
			u, err := url.Parse(found)
			if err != nil || u.User != nil || u.Scheme != "https" && u.Scheme != r.Scheme {
				continue
			}
			if h, ok := ParseRemote(r.Scheme + "://" + r.Host + "/x"); ok && strings.EqualFold(u.Hostname(), hostname(h.Host)) {
				return found
			}
		}
	}
	return ""
}

func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

var userInfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@]*(?:@[^\s/@]*)*@`)

// secretQuery is a parameter of an address that is a credential by its name.
var secretQuery = regexp.MustCompile(`(?i)([?&][a-z_-]*(?:token|password|secret|api_?key|sig|signature)=)[^\s&'"]+`)

// withoutCredentials takes users, passwords and tokens out of the addresses in a text.
func withoutCredentials(text string) string {
	return secretQuery.ReplaceAllString(userInfo.ReplaceAllString(text, "$1"), "$1…")
}
