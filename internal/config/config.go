// Package config holds the configuration file of akidbd: its format, its defaults, its rules and what of it
// may change while the daemon runs. The comments of Config and the structs below are the manual;
// conf/akidbd.yaml shows the same keys with the same defaults.
//
// A value comes from, strongest first: the environment variable AKIDB_<PATH> (AKIDB_ENGINE_THREADS for
// engine.threads), the file, for three keys of node a plain environment variable (see Node), the default.
// An environment variable that is set but empty counts as not set.
//
// The package imports nothing of akidbd and starts nothing: it turns bytes into a Config or into an *Error
// that lists everything that is wrong.
package config

import "log/slog"

// Config is everything that can be set. Every key is optional.
//
// Tags: yaml is the key; reload says what a change needs, "yes" when a running daemon takes it over on reload
// (SIGHUP or `akidbd reload`) and "restart" when it waits for a restart; secret:"yes" marks what Redacted
// hides. Relative paths are relative to the working directory of the daemon.
type Config struct {
	Node    Node     `yaml:"node"`
	Listen  []Listen `yaml:"listen" reload:"restart"` // where clients reach the node; default one entry, ":8080"; 1 to 16 entries
	Admin   Admin    `yaml:"admin"`
	Log     Log      `yaml:"log"`
	Models  []Model  `yaml:"models" reload:"yes"` // what the node serves; default none; at most 64 entries
	Engine  Engine   `yaml:"engine"`
	API     API      `yaml:"api"`
	Metrics Metrics  `yaml:"metrics"`
	Tracing Tracing  `yaml:"tracing"`
	PKI     PKI      `yaml:"pki"`
	Peer    Peer     `yaml:"peer"`
	Gossip  Gossip   `yaml:"gossip"`
	Router  Router   `yaml:"router"`
	Sync    Sync     `yaml:"sync"`

	// StateDir holds what must survive a restart, the node's own copies of the models among it. One daemon owns
	// it at a time. Default /var/lib/akidbd.
	StateDir string `yaml:"state_dir" reload:"restart"`
	// CacheDir holds what can be made again, such as TensorRT engines. Default /var/cache/akidbd.
	CacheDir string `yaml:"cache_dir" reload:"restart"`

	// DrainDelay is how long a stopping node keeps serving after its readiness turned to 503, so that load
	// balancers notice first. Default 5s; 0s to 5m.
	DrainDelay Duration `yaml:"drain_delay" reload:"yes"`
	// DrainTimeout is how long requests in flight may then take before they are cut off. Default 20s; 1ms to 1h.
	DrainTimeout Duration `yaml:"drain_timeout" reload:"yes"`

	origins map[string]origin // where each value that is not a default was set
}

// Node says who and where this node is.
type Node struct {
	// Name is unique in the fleet, [a-zA-Z0-9][a-zA-Z0-9.-]{0,63}. Default "": the host name, see NodeName.
	Name string `yaml:"name" reload:"restart"`
	// Region, Zone, Cluster and Environment place the node, each [a-zA-Z0-9][a-zA-Z0-9._-]{0,62} or, but for
	// the region, empty. Region defaults to "local", the others to "". The plain environment variables
	// REGION, CLUSTER_NAME and ENVIRONMENT give defaults for three of them that the file overrides.
	Region      string `yaml:"region" reload:"restart"`
	Zone        string `yaml:"zone" reload:"restart"`
	Cluster     string `yaml:"cluster" reload:"restart"`
	Environment string `yaml:"environment" reload:"restart"`
	// Labels are free pairs that others can select nodes by. At most 32; a name is [a-z0-9][a-z0-9._/-]{0,62},
	// a value at most 63 bytes of printable UTF-8. As an environment variable: "gpu=orin,rack=2".
	Labels map[string]string `yaml:"labels" reload:"restart"`
}

// Listen is one address that clients connect to.
type Listen struct {
	// Address is host:port; an empty host is every interface, port 0 any free port.
	Address string `yaml:"address" reload:"restart"`
	// Roles are the sets of routes served there; "public" is the only one. Default [public].
	Roles []string `yaml:"roles" reload:"restart"`
}

// Admin is the control surface of this node. It is never on the network.
type Admin struct {
	// Socket is the path of the unix socket, at most 107 bytes. Default "": what DefaultAdminSocket picks,
	// /run/akidbd/admin.sock for a system service.
	Socket string `yaml:"socket" reload:"restart"`
}

// Log is how the daemon logs, to standard error.
type Log struct {
	Level  string `yaml:"level" reload:"yes"`      // debug, info, warn or error; default info
	Format string `yaml:"format" reload:"restart"` // json or text; default json
}

// SlogLevel is Level as slog has it; an unknown level counts as info.
func (l Log) SlogLevel() slog.Level {
	switch l.Level {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// Model is one model to serve. Only Name is required: everything else defaults to what the files of the model say.
type Model struct {
	// Name is what clients ask for and what metrics show, [a-zA-Z0-9][a-zA-Z0-9._-]{0,63}.
	Name string `yaml:"name" reload:"yes"`
	// Path is a directory in the layout of Hugging Face, or hf://org/name[@revision] for one that is fetched from the
	// Hub (see HF_ENDPOINT and HF_TOKEN). It is copied into StateDir; the original is not touched and may change while
	// the node serves. Default "": the model arrives by itself, see Sync.
	Path string `yaml:"path" reload:"yes"`
	// Aliases are other names for it, each [a-zA-Z0-9][a-zA-Z0-9._/:-]{0,127}, unique over all names and
	// aliases. At most 16.
	Aliases []string `yaml:"aliases" reload:"yes"`
	// Default makes it answer requests that name no model, or "default". At most one model has it; without any,
	// a model with the alias "default" is it, and without that the first of the list. See DefaultModel.
	Default bool `yaml:"default" reload:"yes"`
	// Pooling is cls, mean, max, mean_sqrt_len, weightedmean or last; lasttoken and mean_sqrt_len_tokens, the
	// names of sentence-transformers, are understood too. Default "": the model's own.
	Pooling string `yaml:"pooling" reload:"yes"`
	// MaxTokens cuts the longest input, specials included, below what the model can. Default 0: the model's
	// own; at most 131072.
	MaxTokens int `yaml:"max_tokens" reload:"yes"`
	// Normalize says whether vectors have length 1 when a request does not say. Default: the model's own.
	Normalize *bool `yaml:"normalize" reload:"yes"`
	// Truncate says whether an over-long input is cut or refused when a request does not say. Default: cut.
	Truncate *bool `yaml:"truncate" reload:"yes"`
	// Precision is fp32 or fp16, of the computation. Default fp32.
	Precision string `yaml:"precision" reload:"yes"`
	// Prompts are texts set before every input of a request that names them ("query: "), added to the model's
	// own. At most 64, names of 1 to 64 bytes, texts of at most 4096.
	Prompts map[string]string `yaml:"prompts" reload:"yes"`
	// DefaultPrompt names the prompt of requests that name none. Default "": the model's own.
	DefaultPrompt string `yaml:"default_prompt" reload:"yes"`
}

// Engine is how models are computed.
type Engine struct {
	// LibraryPath is the ONNX Runtime library. Default "": the usual places of the system.
	LibraryPath string `yaml:"library_path" reload:"restart"`
	// Isolation is process, every model in a process of its own that is started again when it crashes or hangs, or
	// none, all in the daemon: a crash of ONNX Runtime then ends it. Default process.
	Isolation string `yaml:"isolation" reload:"restart"`
	// Swap says how a new version of a model takes the place of the old one: beside, both are in memory until the
	// new one answers, or unload, the old one ends first and requests wait: for machines with little memory.
	// Default beside.
	Swap string `yaml:"swap" reload:"restart"`
	// Hold is how long requests wait when the process of their model died, for it to be started again; then they
	// are refused as unavailable. Default 0s: 1.5s when there are peers to ask, else api.deadline; at most 1h.
	Hold Duration `yaml:"hold" reload:"restart"`
	// Providers are execution providers in order of preference, of cpu, cuda and tensorrt. One that is not
	// there is skipped with a warning. Default [cpu].
	Providers []string `yaml:"providers" reload:"restart"`
	// Threads is how many cores to use. Default 0: what the cgroup and the affinity mask give; at most 1024.
	Threads int `yaml:"threads" reload:"restart"`
	// BatchTokens is the padded-token budget of one run on the CPU. An input longer than that runs alone.
	// Default 256: measured, two AVX2 cores are at their ceiling from 128 to 512, and more only adds latency;
	// 16 to 1048576.
	BatchTokens int `yaml:"batch_tokens" reload:"restart"`
	// QueueTokens is how many tokens may wait before a request is refused as overloaded. Default 65536, about
	// 10 seconds of two such cores; BatchTokens to 1073741824.
	QueueTokens int `yaml:"queue_tokens" reload:"restart"`
	// Wide says when one run may use all cores instead of one: auto (a lone request on an idle node), always
	// or never. Default auto.
	Wide string `yaml:"wide" reload:"restart"`
	// RunTimeout ends a run that takes longer; its requests fail. Default 30s; 100ms to 1h.
	RunTimeout Duration `yaml:"run_timeout" reload:"restart"`
	// LoadTimeout ends the loading of a model, warm-up and the building of TensorRT engines included.
	// Default 10m; 1s to 24h.
	LoadTimeout Duration `yaml:"load_timeout" reload:"restart"`
}

// API limits what a client may ask.
type API struct {
	// Deadline is the longest a request may take when it does not say less. Default 10s; 1ms to 1h.
	Deadline Duration `yaml:"deadline" reload:"yes"`
	// MaxBody is the largest request body, after decompression. Default 8MiB; 1KiB to 1GiB.
	MaxBody Bytes `yaml:"max_body" reload:"yes"`
	// MaxInputs is how many texts one request may carry. Default 2048, as OpenAI's; 1 to 65536.
	MaxInputs int `yaml:"max_inputs" reload:"yes"`
	// MaxInputBytes is the longest single text; token ids may be a quarter as many. Default 1MiB; 1 to 1GiB.
	MaxInputBytes Bytes `yaml:"max_input_bytes" reload:"yes"`
	// TokenIDs accepts inputs that are token ids. Default false: some client libraries send the ids of another
	// model's tokenizer, which would give wrong vectors without an error.
	TokenIDs bool `yaml:"token_ids" reload:"yes"`
	// KeysFile names a file of API keys, one a line; its content is read again on reload. Default "": no key
	// is asked for.
	KeysFile string `yaml:"keys_file" reload:"yes"`
	// RetryAfter is what a refused client is told to wait, in whole seconds. Default 1s; 1s to 1h.
	RetryAfter Duration `yaml:"retry_after" reload:"yes"`
}

// Metrics is about GET /metrics.
type Metrics struct {
	RequireKey bool `yaml:"require_key" reload:"yes"` // ask for an API key there too; needs api.keys_file; default false
}
