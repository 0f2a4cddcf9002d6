//! This machine itself as the one node: in its own network, and without a trace afterwards.

mod namespaces;

const STEPS: &str = r#"
say 'the machine is the node, and the shop answers on it'
"$KUTTER" up --host-node --demo --timeout 60 > "$WORK/up" 2>&1 || { cat "$WORK/up"; exit 1; }
grep -q 'Demo is ready' "$WORK/up"
test "$("$KUTTER" nodes list | sed -n 2p | awk '{print $1}')" = "$(hostname | tr A-Z a-z)"
test -z "$(ls /run/netns)"
if ss -Hltn 2> /dev/null | awk '{print $4}' | grep -E '^(0\.0\.0\.0|\*|\[::\]):'; then echo 'listens for the world'; exit 1; fi

say 'it is one node, and has no local ones besides'
if "$KUTTER" nodepool add more 2> "$WORK/told"; then exit 1; fi
grep -q 'cannot carry local nodes besides' "$WORK/told"
if "$KUTTER" nodepool scale pool --count 2 2> "$WORK/told"; then exit 1; fi
grep -q 'is one node, not 2' "$WORK/told"
if "$KUTTER" up --host-node --nodes 2 2> "$WORK/told"; then exit 1; fi

say 'down ends the pods, up brings them back'
"$KUTTER" down 2> /dev/null
test -z "$(ip -o link show | grep 'kv' || true)"
"$KUTTER" up --demo --timeout 60 > "$WORK/up" 2>&1 || { cat "$WORK/up"; exit 1; }

say 'nothing is left'
"$KUTTER" delete --yes 2> /dev/null
test -z "$(ip -o link show | grep -v ' lo:' || true)"
test -z "$(ip -o addr show lo | grep -v '127.0.0.1\|::1' || true)"
test -z "$(ip route show)"
test ! -e "$KUTTER_DATA_DIR"
test -z "$(ls -d /sys/fs/cgroup/*/"$GROUP"* 2> /dev/null || true)"
say 'done'
"#;

#[test]
fn this_machine_is_a_node() {
    namespaces::run(STEPS, |_| {});
}
