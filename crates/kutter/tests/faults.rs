//! What a machine and its images can do to a cluster: each says clearly what is wrong, and nothing else breaks.

mod namespaces;

/// The helpers of both tests.
const HELPERS: &str = r#"
ask() { python3 "$TESTS/faults.py" "$@"; }
refuses() {
    what=$1; shift
    if "$@" > "$WORK/said" 2>&1; then cat "$WORK/said"; echo "not refused"; exit 1; fi
    grep -q "$what" "$WORK/said" || { cat "$WORK/said"; echo "does not say: $what"; exit 1; }
}
"#;

#[test]
fn a_poor_machine_and_bad_images_are_named() {
    let steps = r#"
say 'a machine without overlayfs is refused, and told how to mend it'
grep -v overlay /proc/filesystems > "$WORK/filesystems"
without_overlay() {
    unshare -m --propagation private bash -c 'mount --bind "$WORK/filesystems" /proc/filesystems; "$KUTTER" "$@"' - "$@"
}
without_overlay doctor > "$WORK/said" 2>&1 || true
grep -q 'the kernel lacks overlay: load the module' "$WORK/said"
refuses 'cannot run nodes: overlay' without_overlay up --timeout 20

say 'so is one without nftables'
weak() { setpriv --bounding-set=-net_admin --inh-caps=-net_admin "$KUTTER" "$@"; }
refuses 'cannot run nodes: capabilities: CAP_NET_ADMIN missing.*nftables' weak up --timeout 20
"$KUTTER" down > /dev/null 2>&1 || true

say 'a data directory on overlayfs, too'
mkdir -p "$WORK/lower" "$WORK/top"
mount -t tmpfs none "$WORK/top"
mkdir "$WORK/top/upper" "$WORK/top/work" "$WORK/on"
mount -t overlay none -o "lowerdir=$WORK/lower,upperdir=$WORK/top/upper,workdir=$WORK/top/work" "$WORK/on"
refuses 'is on overlayfs: choose another place' "$KUTTER" --data-dir "$WORK/on/data" up --timeout 20
"$KUTTER" --data-dir "$WORK/on/data" down > /dev/null 2>&1 || true

say 'a cluster on a small disk'
mkdir -p "$KUTTER_DATA_DIR"
mount -t tmpfs -o size=96m none "$KUTTER_DATA_DIR"
"$KUTTER" up --timeout 60 > /dev/null

say 'images that lie are refused and leave nothing'
ask images "$WORK"
refuses 'hashes to' "$KUTTER" image import "$WORK/lying.tar"
refuses 'leads out of the layer\|outside' "$KUTTER" image import "$WORK/escaping.tar"
refuses 'does not parse\|no image\|archive' "$KUTTER" image import "$WORK/garbage.tar"
refuses 'does not have it\|cut\|end' "$KUTTER" image import "$WORK/partial.tar"
test -z "$(find "$WORK" -name escaped)"
test "$("$KUTTER" image list -o json | grep -c lying)" = 0

say 'a full disk refuses writes by name, and reads go on'
ask make before
dd if=/dev/zero of="$KUTTER_DATA_DIR/fill" bs=64k 2> /dev/null || true
ask full
ask there before

say 'with room again everything is there and goes on'
rm "$KUTTER_DATA_DIR/fill"
ask again after
"$KUTTER" down > /dev/null
"$KUTTER" up --timeout 60 > /dev/null
ask there before
ask there after
"$KUTTER" delete --yes > /dev/null || true
say 'done'
"#;
    namespaces::run(&format!("{HELPERS}{steps}"), |_| {});
}

#[test]
fn without_an_api_server_everything_else_goes_on() {
    let steps = r#"
pid_of() { "$KUTTER" status -o json | python3 -c "
import json, sys
for p in json.load(sys.stdin)[0]['processes']:
    if p['role'] == '$1': print(p['pid'])" | head -1; }

say 'the shop on two nodes'
"$KUTTER" up --nodes 2 --demo --timeout 90 > /dev/null
ask page
dns=$(ask service kube-system kube-dns)
back=$(ask service shop backend)
node=$(ip netns list | awk '{print $1}' | head -1)
ip netns exec "$node" python3 "$TESTS/faults.py" resolve "$dns" backend.shop.svc.cluster.local "$back"

say 'the control plane hangs: pages, Services and DNS go on'
control=$(pid_of control-plane)
kill -STOP "$control"
for _ in 1 2 3; do ask page; done
for each in $(ip netns list | awk '{print $1}'); do
    ip netns exec "$each" python3 "$TESTS/faults.py" resolve "$dns" backend.shop.svc.cluster.local "$back"
    ip netns exec "$each" python3 "$TESTS/faults.py" connect "$back"
done
refuses 'control plane\|API server\|timed out\|does not answer' timeout 60 "$KUTTER" up --timeout 3

say 'it is back, and so is all else'
kill -CONT "$control"
"$KUTTER" up --timeout 60 > /dev/null
ask make after
ask page
"$KUTTER" delete --yes > /dev/null
say 'done'
"#;
    namespaces::run(&format!("{HELPERS}{steps}"), |_| {});
}
