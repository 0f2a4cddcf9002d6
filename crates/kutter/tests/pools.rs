//! What a node pool says of its nodes reaches them: size, labels, taints.

mod namespaces;

const STEPS: &str = r#"
pools() { python3 "$TESTS/pools.py" "$@"; }

say 'nodes are as large as their pool says, and no larger for the kernel'
"$KUTTER" up --timeout 60 > /dev/null
"$KUTTER" nodepool add tiny --cpus 1 --memory-mib 512 --max-pods 20 \
    --label disk=ssd --taint dedicated=tiny:NoSchedule > "$WORK/list"
grep -q 'tiny *1 *1 *512Mi *20 *disk=ssd *dedicated=tiny:NoSchedule' "$WORK/list"
"$KUTTER" up --timeout 60 > /dev/null
pools size default-tiny-0 1 512 20
pools marked default-tiny-0
pools counted default-tiny-0

say 'a changed pool changes its nodes and leaves the rest of it'
"$KUTTER" nodepool add tiny --max-pods 30 > "$WORK/list"
grep -q 'tiny *1 *1 *512Mi *30 *disk=ssd *dedicated=tiny:NoSchedule' "$WORK/list"
pools grown default-tiny-0 30
pools size default-tiny-0 1 512 30

say 'labels and taints that change or go reach living nodes'
"$KUTTER" nodepool add tiny --label rack=r1 --taint dedicated=small:NoSchedule --taint extra:NoExecute > /dev/null
pools remarked default-tiny-0

say 'what no node can be is refused'
for wrong in '--memory-mib 64' '--max-pods 0' '--taint dedicated' '--count 99'; do
    if "$KUTTER" nodepool add other $wrong 2> "$WORK/refusal"; then exit 1; fi
    grep -qE 'too few|not possible|cannot be read|too many' "$WORK/refusal"
done

say 'a pool that goes leaves no cgroup'
ls -d /sys/fs/cgroup/*/"$GROUP"default-tiny-0 /sys/fs/cgroup/"$GROUP"default-tiny-0 > "$WORK/before" 2> /dev/null || true
test -s "$WORK/before"
"$KUTTER" nodepool delete tiny > /dev/null
for dir in $(cat "$WORK/before"); do
    for _ in $(seq 200); do test -e "$dir" || break; sleep 0.1; done
    test ! -e "$dir"
done
"$KUTTER" delete --yes
say 'done'
"#;

#[test]
fn a_pool_reaches_its_nodes() {
    namespaces::run(STEPS, |_| {});
}
