//! One command from nothing to a cluster and back to nothing, in namespaces of the test's own.

mod namespaces;

const STEPS: &str = r#"
pid_of() { "$KUTTER" status -o json | python3 -c "
import json, sys
for p in json.load(sys.stdin)[0]['processes']:
    if p['role'] == '$1': print(p['pid'])" | head -1; }

say 'up makes a cluster of two ready nodes and merges a context'
"$KUTTER" up --nodes 2 --timeout 60
grep -q kutter-default "$KUBECONFIG"
test "$("$KUTTER" nodes list -o json | grep -c '"ready"')" = 2

say 'up again says what runs'
"$KUTTER" up | grep -q 'already runs'

say 'a node shares mounts with its pods, and answers as a proxy does'
node=$(pid_of node)
grep -q " / / .* shared:" "/proc/$node/mountinfo"
nsenter -t "$node" -n python3 - <<'SCRIPT'
import json, urllib.request
ask = lambda url: urllib.request.urlopen(url, timeout=10).read().decode()
health = json.loads(ask("http://127.0.0.1:10256/healthz"))
assert health["healthy"] and health["nodeEligible"] and health["lastUpdated"], health
assert ask("http://127.0.0.1:10249/proxyMode") == "nftables"
SCRIPT

say 'a killed control plane comes back'
before=$(pid_of control-plane)
kill -9 "$before"
for _ in $(seq 100); do
    after=$(pid_of control-plane)
    [ -n "$after" ] && [ "$after" != "$before" ] && break
    sleep 0.1
done
test "$after" != "$before"
"$KUTTER" up --timeout 60 > /dev/null

say 'a killed manager is replaced by one that adopts what runs'
before=$(pid_of control-plane)
kill -9 "$(cat "$KUTTER_DATA_DIR/manager/lock")"
sleep 0.2
"$KUTTER" up --timeout 60 > /dev/null
test "$(pid_of control-plane)" = "$before"

say 'a second manager is refused'
if "$KUTTER" manager 2> "$WORK/second"; then exit 1; fi
grep -q 'another manager' "$WORK/second"

say 'the demo keeps its orders on a volume of its node'
"$KUTTER" up --demo --timeout 60 > "$WORK/demo" 2>&1 || { cat "$WORK/demo"; exit 1; }
cat "$WORK/demo"
SHOP=$(sed -n 's/^Demo is ready: \(http[^ ]*\).*/\1/p' "$WORK/demo")
export SHOP
storage() { python3 "$STORAGE" "$@"; }
storage bound
storage order 2
storage replace
storage count 2

say 'a pool grows and shrinks'
"$KUTTER" nodepool scale pool --count 3 > /dev/null
"$KUTTER" up --timeout 60 > /dev/null
test "$("$KUTTER" nodes list -o json | grep -c '"ready"')" = 3
"$KUTTER" nodepool scale pool --count 2 > /dev/null
storage nodes 2

say 'a backup of the running cluster'
"$KUTTER" backup "$WORK/backup" | grep -q 'objects at revision'
if "$KUTTER" backup "$WORK/backup" 2> "$WORK/exists"; then exit 1; fi
grep -q 'exists' "$WORK/exists"
if "$KUTTER" restore "$WORK/backup" 2> "$WORK/runs"; then exit 1; fi
grep -q 'stop it with' "$WORK/runs"

say 'down keeps the data, up brings it back'
"$KUTTER" down
test -d "$KUTTER_DATA_DIR/clusters/default/control-plane/store"
"$KUTTER" restore "$WORK/backup" | grep -q 'kept at'
"$KUTTER" up --timeout 60 > /dev/null
storage count 2

say 'a volume grows, and goes with its claim once its node is there'
storage grow
storage release
node=$(storage node)
"$KUTTER" nodes stop "$node"
storage drop
"$KUTTER" nodes start "$node"
storage gone

say 'delete leaves nothing'
"$KUTTER" delete --yes
test ! -e "$KUTTER_DATA_DIR"
! grep -q kutter-default "$KUBECONFIG"
test -z "$(ip -o link show | grep -v ' lo:' || true)"
test -z "$(ls /run/netns)"
! grep -q "$WORK" /proc/self/mounts
test -z "$(ps -eo args | grep "^kutter " || true)"
say 'done'
"#;

#[test]
fn one_command_makes_a_cluster_and_one_removes_it() {
    namespaces::run(STEPS, |_| {});
}
