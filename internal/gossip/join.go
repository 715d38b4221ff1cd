package gossip

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/akidb/akidbd/internal/node"
)

const (
	resolveTimeout = 2 * time.Second
	seedsRecheck   = time.Minute // a DNS name may lead elsewhere by now
	leftRetry      = 30 * time.Second
	saveInterval   = 5 * time.Second
	perRound       = 2  // seeds, and as many lost nodes
	perRoundAlone  = 8  // when there is nobody else
	maxAddresses   = 16 // of one name
	maxAttempts    = 16 // at once
	actors         = 4  // about how many nodes of a fleet look for the lost ones in a round
)

// seed is one entry of Config.Seeds.
type seed struct {
	host  string
	port  uint16
	tried time.Time
	sure  time.Time // when all its addresses were found to be members
}

func parseSeeds(in []string) ([]*seed, error) {
	seeds := make([]*seed, 0, len(in))
	for _, s := range in {
		host, text, err := net.SplitHostPort(s)
		port, perr := strconv.ParseUint(text, 10, 16)
		if err != nil || perr != nil || host == "" || port == 0 || len(host) > maxAddrBytes {
			return nil, fmt.Errorf(`seed %.80q is not host:port, write for example "10.0.0.5:7946"`, s)
		}
		seeds = append(seeds, &seed{host: host, port: uint16(port)})
	}
	return seeds, nil
}

// joiner looks for seeds and lost nodes.
type joiner struct {
	c        *Cluster
	list     *memberlist.Memberlist
	attempts *sync.WaitGroup

	mu      sync.Mutex
	flying  map[string]bool      // targets of attempts under way
	joined  map[string]time.Time // addresses that led into the fleet, and when
	lastErr error
}

// keepJoined finds the fleet and finds it again, until ctx ends. Each round a few nodes of a fleet, by chance and
// in all about as many however large it is, try what is missing; a node that is alone always does.
func (c *Cluster) keepJoined(ctx context.Context, list *memberlist.Memberlist, attempts *sync.WaitGroup) {
	j := &joiner{c: c, list: list, attempts: attempts, flying: map[string]bool{}, joined: map[string]time.Time{}}
	start, warned := time.Now(), time.Time{}
	saved := time.Now()
	before, news := 0, newcomer{}
	for round := 0; ; round++ {
		n := c.table.size()
		acts := rand.Float64() < float64(actors)/float64(n+1)
		if news.due(before, n, acts) {
			j.exchange()
		}
		if round == 0 || acts {
			limit := perRound
			if n == 0 {
				limit = perRoundAlone
			}
			j.lookForLost(n == 0, limit)
			j.lookForSeeds(ctx, n == 0, limit)
		}
		if n > 0 && before == 0 {
			c.log.Info("this node met others", "members", n, "after", time.Since(start).Round(time.Millisecond))
		}
		if reason := j.reason(); n == 0 && reason != "" && time.Since(start) > 10*time.Second && time.Since(warned) > warnInterval {
			c.log.Warn("this node meets no other", "seeds", len(*c.seeds.Load()), "reason", reason)
			warned = time.Now()
		}
		before = n
		if time.Since(saved) > saveInterval {
			c.saveSnapshot()
			saved = time.Now()
		}
		wait := rejoinInterval
		if n == 0 && round < 6 {
			wait /= 4
		}
		if !pause(ctx, wait*3/4+rand.N(wait/2)) {
			return
		}
	}
}

// newcomer decides on exchanges after nodes came. The news of a node may pass another one that comes at the same
// moment, and would else reach it with the next push/pull.
type newcomer struct{ own, others int }

const settleRounds = 3

func (s *newcomer) due(before, now int, acts bool) bool {
	switch {
	case now == 0:
		return false
	case before == 0:
		s.own = settleRounds
	case now > before:
		s.others = settleRounds
	}
	if s.own > 0 {
		s.own--
		return true
	}
	s.others = max(0, s.others-1)
	return s.others > 0 && acts
}

// exchange makes a push/pull with any member.
func (j *joiner) exchange() {
	if nodes := j.c.Nodes(); len(nodes) > 0 {
		j.try(string(nodes[rand.IntN(len(nodes))].ID)+"/"+placeholder, "")
	}
}

func (j *joiner) lookForLost(alone bool, limit int) {
	for _, id := range j.c.table.missing(alone, limit) {
		j.try(string(id)+"/"+placeholder, "")
	}
}

// missing gives the lost nodes whose turn it is.
func (t *table) missing(alone bool, limit int) []node.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []node.ID
	for id, l := range t.lost {
		if !l.left || alone || time.Since(l.tried) > leftRetry && time.Since(l.since) > leftRetry {
			ids = append(ids, id)
		}
	}
	rand.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
	slices.SortStableFunc(ids, func(a, b node.ID) int { return t.lost[a].tried.Compare(t.lost[b].tried) })
	ids = ids[:min(limit, len(ids))]
	for _, id := range ids {
		t.lost[id].tried = time.Now()
	}
	return ids
}

func (j *joiner) lookForSeeds(ctx context.Context, alone bool, limit int) {
	known, own, lastLoss := j.known()
	due := slices.DeleteFunc(slices.Clone(*j.c.seeds.Load()), func(s *seed) bool {
		return !alone && s.sure.After(lastLoss) && time.Since(s.sure) < seedsRecheck
	})
	slices.SortStableFunc(due, func(a, b *seed) int { return a.tried.Compare(b.tried) })
	due = due[:min(limit, len(due))]
	if len(due) == 0 {
		return
	}
	for addr := range j.c.resolve(ctx, j.c.cfg.Self.Addr) {
		own[addr] = true
	}
	found := make([]map[string]bool, len(due))
	var wg sync.WaitGroup
	for i, s := range due {
		s.tried = time.Now()
		wg.Go(func() { found[i] = j.c.resolve(ctx, net.JoinHostPort(s.host, strconv.Itoa(int(s.port)))) })
	}
	wg.Wait()
	for i, s := range due {
		sure := len(found[i]) > 0
		if !sure {
			j.mu.Lock()
			j.lastErr = fmt.Errorf("seed %s has no address now", s.host)
			j.mu.Unlock()
		}
		for addr := range found[i] {
			if own[addr] || known[addr] || !alone && j.joinedSince(addr, lastLoss) {
				continue
			}
			sure = false
			j.try(addr, addr)
		}
		if sure {
			s.sure = time.Now()
		}
	}
}

// known gives the addresses of members, those of this machine with this node's port, and when a member was last
// lost.
func (j *joiner) known() (members, own map[string]bool, lastLoss time.Time) {
	t := j.c.table
	t.mu.Lock()
	members = make(map[string]bool, len(t.members))
	for _, f := range t.members {
		members[f.addr] = true
	}
	lastLoss = t.lastLoss
	t.mu.Unlock()
	own = map[string]bool{j.c.cfg.Self.Addr: true}
	_, port, err := net.SplitHostPort(j.c.cfg.Self.Addr)
	if err != nil {
		return members, own, lastLoss
	}
	addrs, _ := net.InterfaceAddrs() // without them a dial finds out that it leads here
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			own[net.JoinHostPort(n.IP.String(), port)] = true
		}
	}
	return members, own, lastLoss
}

// resolve gives the addresses of host:port, none when that fails: there is another round.
func (c *Cluster) resolve(ctx context.Context, hostPort string) map[string]bool {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || host == "" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return map[string]bool{net.JoinHostPort(ip.Unmap().String(), port): true}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := c.cfg.Resolve(ctx, host)
	if err != nil {
		c.log.Debug("a seed has no address", "host", host, "reason", err)
		return nil
	}
	rand.Shuffle(len(ips), func(a, b int) { ips[a], ips[b] = ips[b], ips[a] })
	found := map[string]bool{}
	for _, ip := range ips[:min(maxAddresses, len(ips))] {
		found[net.JoinHostPort(ip.Unmap().String(), port)] = true
	}
	return found
}

// try exchanges everything with a target of memberlist's form, in the background.
func (j *joiner) try(target, addr string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.flying[target] || len(j.flying) >= maxAttempts {
		return
	}
	j.flying[target] = true
	j.attempts.Go(func() {
		_, err := j.list.Join([]string{target})
		result := joinOK
		j.mu.Lock()
		delete(j.flying, target)
		if err != nil {
			j.lastErr, result = err, joinFailed
			delete(j.joined, addr)
		} else if addr != "" {
			j.remember(addr)
		}
		j.mu.Unlock()
		j.c.metrics.joins[result].Inc()
	})
}

// remember notes that an address led into the fleet. The caller holds mu.
func (j *joiner) remember(addr string) {
	if len(j.joined) >= maxLost {
		clear(j.joined)
	}
	j.joined[addr] = time.Now()
}

// joinedSince says whether an address led into the fleet lately and after the last loss.
func (j *joiner) joinedSince(addr string, loss time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	at, ok := j.joined[addr]
	return ok && at.After(loss) && time.Since(at) < 10*seedsRecheck
}

// reason is why the last attempt failed, "" when nothing was attempted.
func (j *joiner) reason() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lastErr == nil {
		return ""
	}
	return strings.Join(strings.Fields(j.lastErr.Error()), " ") // memberlist writes lists on many lines
}
