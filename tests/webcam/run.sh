#!/usr/bin/env bash
# A real /dev/video0 on a machine without a camera: Debian's kernel with the vivid driver, in QEMU.
#
#   tests/webcam/run.sh [PYTHON]      as root on Debian; PYTHON has stream_sr installed, beside this checkout
#
# The guest sees this machine's files read-only over 9p and runs tests/webcam/guest.py. Ends with 0 where that passed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${1:-$here/../../.venv/bin/python}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
work=${XDG_CACHE_HOME:-$HOME/.cache}/stream_sr-webcam

need() {
  for name in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod; do
    command -v "${name%:*}" > /dev/null || packages="${packages:-} ${name#*:}"
  done
  if [ -n "${packages:-}" ]; then
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages > /dev/null
  fi
}

fetch_kernel() { # once; the kernel's package unpacked, and what loads what
  [ -e "$work/kernel/done" ] && return
  mkdir -p "$work/kernel"
  local package
  package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
  (cd "$work" && apt-get download -qq "$package" && dpkg-deb -x "$package"_*.deb kernel && rm "$package"_*.deb)
  depmod -b "$work/kernel" "$(ls "$work/kernel/lib/modules")"
  touch "$work/kernel/done"
}

make_initrd() {
  local root=$work/initrd version
  version=$(ls "$work/kernel/lib/modules")
  rm -rf "$root" && mkdir -p "$root"/{bin,proc,sys,dev,host,modules}
  cp "$(command -v busybox)" "$root/bin/busybox"
  for module in virtio_pci 9pnet_virtio 9p vivid; do
    modprobe -d "$work/kernel" -S "$version" --show-depends "$module"
  done | awk '/^insmod/ && !seen[$2]++ {print $2}' | while read -r file; do
    cp "$file" "$root/modules/"
    echo "insmod /modules/$(basename "$file")" # vivid: one camera, of the kind that a laptop has
  done | sed '/vivid.ko/s/$/ n_devs=1 node_types=0x1 num_inputs=1 input_types=0/' > "$root/load"
  cat > "$root/init" << INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
. /load 2> /dev/null
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host
mount --bind /proc /host/proc; mount --bind /sys /host/sys; mount --bind /dev /host/dev
mount -t tmpfs tmpfs /host/run
ip link set lo up
PYTHONPATH=$here/../.. PYTHONDONTWRITEBYTECODE=1 HOME=/run STREAM_SR_CACHE=/run/cache PATH=/usr/bin:/bin \
  chroot /host $python $here/guest.py && echo "webcam: passed"
poweroff -f
INIT
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd.gz"
}

need
fetch_kernel
make_initrd
timeout 600 qemu-system-x86_64 -m 2G -smp 2 -cpu max -nographic -no-reboot \
  -kernel "$work"/kernel/boot/vmlinuz-* -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap < /dev/null | tee "$work/said"
grep -q "^webcam: passed" "$work/said"
