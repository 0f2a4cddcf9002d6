//! This machine as the one node, with its pods on a containerd of the machine: up, down, up again, and no trace.

use crate::{containerd, namespaces};

const STEPS: &str = r#"
mount -t tmpfs none /run
mkdir /run/netns
export PATH="$(cat "$WORK/programs"):$PATH"
containerd -c "$WORK/containerd.toml" > "$WORK/containerd.log" 2>&1 &
socket="$WORK/containerd.sock"
until ctr -a "$socket" version > /dev/null 2>&1; do sleep 0.1; done
ctr -a "$socket" -n k8s.io images import "$WORK/0.tar" > /dev/null
ctr -a "$socket" -n k8s.io images import "$WORK/1.tar" > /dev/null
kubectl() { "${KUTTER_KUBECTL:-kubectl}" "$@"; }

say 'local nodes are refused, with the reason'
if "$KUTTER" up --runtime "cri=unix://$socket" 2> "$WORK/told"; then exit 1; fi
grep -q 'neither sees the volumes of their pods' "$WORK/told"
test ! -e "$KUTTER_DATA_DIR"

say 'a pod runs on containerd'
"$KUTTER" up --host-node --runtime "cri=unix://$socket" --timeout 60 > "$WORK/up" 2>&1 || { cat "$WORK/up"; exit 1; }
kubectl get nodes -o jsonpath='{.items[0].status.nodeInfo.containerRuntimeVersion}' | grep '^containerd://'
"$KUTTER" status | grep -q supervisor && exit 1
kubectl apply -f - << 'END'
apiVersion: v1
kind: Pod
metadata: { name: p }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: v, emptyDir: { medium: Memory } }]
  containers:
  - name: c
    image: localhost/busybox:1
    command: [sh, -c, "echo hello > /v/f; while true; do sleep 0.1; done"]
    volumeMounts: [{ name: v, mountPath: /v }]
END
kubectl wait --for=condition=Ready pod/p --timeout=60s
kubectl exec p -- cat /v/f
ctr -a "$socket" -n k8s.io task ls -q | grep -q .

say 'down ends the pod and its mounts, up brings it back'
"$KUTTER" down 2> /dev/null
test -z "$(ctr -a "$socket" -n k8s.io containers ls -q)"
! grep "$KUTTER_DATA_DIR/clusters/default/nodes" /proc/self/mountinfo
"$KUTTER" up --timeout 60 > "$WORK/up" 2>&1 || { cat "$WORK/up"; exit 1; }
until kubectl exec p -- cat /v/f 2> /dev/null; do sleep 0.1; done

say 'nothing is left'
"$KUTTER" delete --yes 2> /dev/null
test -z "$(ctr -a "$socket" -n k8s.io containers ls -q)"
! grep "$KUTTER_DATA_DIR" /proc/self/mountinfo
test ! -e "$KUTTER_DATA_DIR"
test -z "$(ls -d /sys/fs/cgroup/*/"$GROUP"* 2> /dev/null || true)"
say 'done'
"#;

#[test]
fn this_machine_with_containerd() {
    namespaces::run(STEPS, |work| {
        let containerd = containerd::prepare(work);
        let dir = containerd.parent().expect("a folder").display().to_string();
        std::fs::write(work.join("programs"), dir).expect("the folder of the programs");
    });
}
