package config

import "time"

// Default is the configuration of a node whose file says nothing. It is valid; a new value each time.
func Default() *Config {
	return &Config{
		Node:   Node{Region: "local"},
		Listen: []Listen{{Address: ":8080", Roles: []string{RolePublic}}},
		Log:    Log{Level: "info", Format: "json"},
		Engine: Engine{
			Isolation:   "process",
			Swap:        "beside",
			Providers:   []string{"cpu"},
			BatchTokens: 256,
			QueueTokens: 65536,
			Wide:        "auto",
			RunTimeout:  Duration(30 * time.Second),
			LoadTimeout: Duration(10 * time.Minute),
		},
		API: API{
			Deadline:      Duration(10 * time.Second),
			MaxBody:       8 << 20,
			MaxInputs:     2048,
			MaxInputBytes: 1 << 20,
			RetryAfter:    Duration(time.Second),
		},
		Tracing: Tracing{SamplePercent: 10},
		Peer:    Peer{Address: ":7946", MaxForeign: 8},
		Router: Router{
			CrossRegion: "on",
			Attempts:    3,
			TryTimeout:  Duration(2 * time.Second),
			SpillAfter:  Duration(50 * time.Millisecond),
			ShardTokens: 4096,
		},
		Sync:         Sync{Replicate: "on", Interval: Duration(5 * time.Minute), Keep: 2},
		StateDir:     "/var/lib/akidbd",
		CacheDir:     "/var/cache/akidbd",
		DrainDelay:   Duration(5 * time.Second),
		DrainTimeout: Duration(20 * time.Second),
	}
}

// setDefaults fills a list entry before the file's keys are put over it.
func (l *Listen) setDefaults() { l.Roles = []string{RolePublic} }

func (m *Model) setDefaults() { m.Precision = "fp32" }
