package ort

/*
#include <dlfcn.h>
#include <stddef.h>

// tensorrt_version is the version number of the TensorRT library that would be loaded, 0 when there is none.
static int tensorrt_version(void) {
	const char *names[] = {"libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so", NULL};
	for (int i = 0; names[i] != NULL; i++) {
		void *h = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
		if (h == NULL) continue;
		int (*version)(void) = (int (*)(void))dlsym(h, "getInferLibVersion");
		if (version != NULL) return version();
	}
	return 0;
}

// compute_capability is 10 x major + minor of CUDA device 0, 0 when there is none.
static int compute_capability(void) {
	enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 }; // CUdevice_attribute of cuda.h
	void *h = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
	if (h == NULL) return 0;
	int (*init)(unsigned) = (int (*)(unsigned))dlsym(h, "cuInit");
	int (*get)(int *, int) = (int (*)(int *, int))dlsym(h, "cuDeviceGet");
	int (*attribute)(int *, int, int) = (int (*)(int *, int, int))dlsym(h, "cuDeviceGetAttribute");
	int device, major, minor;
	if (init == NULL || get == NULL || attribute == NULL) return 0;
	if (init(0) != 0 || get(&device, 0) != 0) return 0;
	if (attribute(&major, CAPABILITY_MAJOR, device) != 0 || attribute(&minor, CAPABILITY_MINOR, device) != 0) return 0;
	return 10 * major + minor;
}
*/
import "C"

import "strconv"

// gpuInfo is what an engine of TensorRT is bound to.
type gpuInfo struct {
	tensorRT string // version number as TensorRT counts it, like "100300"; "none" without the library
	arch     string // compute capability, like "87" for Orin; "none" without a CUDA device
}

func gpu() gpuInfo {
	name := func(n C.int) string {
		if n == 0 {
			return "none"
		}
		return strconv.Itoa(int(n))
	}
	return gpuInfo{tensorRT: name(C.tensorrt_version()), arch: name(C.compute_capability())}
}
