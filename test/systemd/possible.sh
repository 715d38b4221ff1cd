#!/bin/sh
# Says why machines in containers cannot be started here, or nothing.
[ "$(id -u)" = 0 ] || { echo "it needs root"; exit 1; }
command -v apt-get >/dev/null || { echo "it needs Debian and apt"; exit 1; }
grep -qs -E '^(URIs:|deb ).*https?://[^ ]*/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources ||
    { echo "no apt sources of Debian here"; exit 1; }
[ -w /dev/net/tun ] || { echo "no TUN devices here"; exit 1; }
dir=$(mktemp -d) || exit 1
mkdir "$dir/lower" "$dir/work" "$dir/all"
unshare --mount --pid --fork --net --uts --ipc sh -c "mount -t tmpfs none $dir/work && mkdir $dir/work/up $dir/work/in &&
    mount -t overlay -o lowerdir=$dir/lower,upperdir=$dir/work/up,workdir=$dir/work/in none $dir/all" 2>/dev/null
code=$?
rm -rf "$dir"
[ $code = 0 ] || { echo "namespaces and overlay mounts are not permitted"; exit 1; }
if [ -d /sys/fs/cgroup/memory ]; then
    mkdir "/sys/fs/cgroup/memory/akidbd-possible-$$" 2>/dev/null && rmdir "/sys/fs/cgroup/memory/akidbd-possible-$$" ||
        { echo "no cgroups of one's own here"; exit 1; }
fi
for p in mmdebstrap systemd-container lintian qemu-user-static gcc-aarch64-linux-gnu; do
    dpkg -s $p >/dev/null 2>&1 || missing="$missing $p"
done
[ -z "$missing" ] || apt-get update -qq >/dev/null 2>&1
[ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null 2>&1 || { echo "apt has not$missing"; exit 1; }
