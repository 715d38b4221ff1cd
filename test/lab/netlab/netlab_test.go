//go:build linux

package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(orphanVariable) != "" {
		orphan()
		return
	}
	goleak.VerifyTestMain(m)
}

const orphanVariable = "NETLAB_TEST_ORPHAN"

// orphan makes a network with a process in it, says the process's id and waits to be killed.
func orphan() {
	n, err := New([]Place{{"a", "a"}}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	cmd := exec.Command("sleep", "60")
	if err := n.Host("a").Start(cmd); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cmd.Process.Pid)
	_ = cmd.Wait()
}

// TestKilled: a lab that is killed leaves no process and no namespace behind.
func TestKilled(t *testing.T) {
	lab(t) // or skip
	self := exec.Command(os.Args[0])
	self.Env = append(os.Environ(), orphanVariable+"=1")
	out, err := self.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, numeric := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || numeric != nil {
		t.Fatalf("the lab said %q, %v", line, err)
	}
	_ = self.Process.Kill()
	_ = self.Wait()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(data), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d still runs after its lab was killed", pid)
		}
	}
}

const rtt = 40 * time.Millisecond

// lab is two hosts in one region and one in another.
func lab(t *testing.T) *Net {
	t.Helper()
	if err := Available(); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	began := time.Now()
	n, err := New([]Place{{"a1", "a"}, {"a2", "a"}, {"b1", "b"}}, func(from, to *Host) Path {
		if from.Region != to.Region {
			return Path{Delay: rtt / 2}
		}
		return Path{}
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("set up in %v, want under a second", took)
	}
	t.Cleanup(n.Close)
	return n
}

// echo answers datagrams and connections on port 7 of a host, until the test ends.
func echo(t *testing.T, h *Host) {
	t.Helper()
	var packets net.PacketConn
	var streams net.Listener
	err := h.In(func() (err error) {
		if packets, err = net.ListenPacket("udp4", ":7"); err != nil {
			return err
		}
		streams, err = net.Listen("tcp4", ":7")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); streams.Close() })
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() }) // its peer may have gone with the network, without a word
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
}

// pings sends count datagrams one after the other and gives the shortest round trip and how many came back.
func pings(t *testing.T, from, to *Host, count int, wait time.Duration) (best time.Duration, back int) {
	t.Helper()
	c, err := from.DialContext(t.Context(), "udp", net.JoinHostPort(to.Addr.String(), "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	best = time.Hour
	buf := make([]byte, 100)
	for i := range count {
		sent := time.Now()
		_, _ = c.Write([]byte{byte(i)})
		for {
			_ = c.SetReadDeadline(sent.Add(wait))
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			if n == 1 && buf[0] == byte(i) {
				best, back = min(best, time.Since(sent)), back+1
				break
			}
		}
	}
	return best, back
}

func TestDelay(t *testing.T) {
	n := lab(t)
	echo(t, n.Host("a2"))
	echo(t, n.Host("b1"))
	if best, back := pings(t, n.Host("a1"), n.Host("a2"), 5, time.Second); back != 5 || best > rtt/2 {
		t.Errorf("in the region: %d of 5 back, the fastest in %v", back, best)
	}
	best, back := pings(t, n.Host("a1"), n.Host("b1"), 5, time.Second)
	if back != 5 || best < rtt || best > 2*rtt {
		t.Errorf("between regions: %d of 5 back, the fastest in %v, want %v", back, best, rtt)
	}
	t.Logf("RESULT round trip between regions %v, configured %v", best, rtt)
}

func TestFaults(t *testing.T) {
	n := lab(t)
	a1, b1 := n.Host("a1"), n.Host("b1")
	echo(t, a1)
	echo(t, b1)
	alive := func(want bool, what string) {
		t.Helper()
		if _, back := pings(t, a1, b1, 2, 200*time.Millisecond); (back == 2) != want || (back == 0) == want {
			t.Errorf("%s: %d of 2 back, alive should be %t", what, back, want)
		}
	}
	alive(true, "at first")
	n.Change(func(from, to *Host, p *Path) { p.Cut = from == b1 && to == a1 })
	alive(false, "cut in one direction")
	n.Reset()
	alive(true, "healed")
	if err := b1.SetUp(false); err != nil {
		t.Fatal(err)
	}
	alive(false, "interface down")
	if err := b1.SetUp(true); err != nil {
		t.Fatal(err)
	}
	alive(true, "interface up again")
	n.Change(func(_, _ *Host, p *Path) { p.Delay, p.Loss = 0, 0.3 })
	_, back := pings(t, a1, b1, 200, 20*time.Millisecond)
	if back < 60 || back > 136 { // 98 expected, with a deviation of 7
		t.Errorf("at 30 %% loss each way %d of 200 came back, want about 98", back)
	}
}

// TestStream: TCP carries megabytes over a delay with jitter, in order.
func TestStream(t *testing.T) {
	n := lab(t)
	n.Change(func(_, _ *Host, p *Path) { p.Jitter = p.Delay / 2 })
	echo(t, n.Host("b1"))
	c, err := n.Host("a1").DialContext(t.Context(), "tcp", net.JoinHostPort(n.Host("b1").Addr.String(), "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 4 << 20
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	began := time.Now()
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, size)
	_ = c.SetDeadline(began.Add(20 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(sent) {
		t.Error("the bytes that came back differ")
	}
	t.Logf("RESULT %.0f Mbit/s there and back", size*8/1e6/time.Since(began).Seconds())
}

// TestOutsideIsOut: a host reaches nothing but the other hosts, and nothing of it can be seen from outside.
func TestOutsideIsOut(t *testing.T) {
	n := lab(t)
	outside, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := n.Host("a1").DialContext(ctx, "tcp", outside.Addr().String()); err == nil {
		c.Close()
		t.Error("a host reached the loopback of the machine")
	}
	if _, err := n.Host("a1").DialContext(ctx, "tcp", "192.0.2.1:80"); err == nil {
		t.Error("a host reached an address that is not of the network")
	}
}

// TestProcess: a process runs in the namespace of its host and ends with the network.
func TestProcess(t *testing.T) {
	n := lab(t)
	out := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", "cat /proc/net/fib_trie; exec sleep 60")
	cmd.Stdout = f
	if err := n.Host("b1").Start(cmd); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(out)
		if err == nil && strings.Contains(string(data), n.Host("b1").Addr.String()) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the process does not see its address: %v %s", err, data)
		}
	}
	n.Close()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process ended with %v, want it killed", err)
	}
	if err := n.Host("b1").Start(exec.Command("true")); !errors.Is(err, context.Canceled) {
		t.Errorf("a start after the end gave %v", err)
	}
}
