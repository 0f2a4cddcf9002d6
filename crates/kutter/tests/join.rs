//! A second machine joins: another network, hostname and state directory, with nothing but the printed command.

mod namespaces;

use std::path::Path;
use std::time::Duration;

use serve::pki::{Authority, Subject};

/// `two COMMAND…` runs on the second machine, `ask ADDRESS` and `two_ask ADDRESS` ask for a page.
const MACHINES: &str = r#"
ip netns add two
ip link add one0 type veth peer name two0 netns two
ip addr add 10.77.0.1/24 dev one0
ip link set one0 up
ip -n two link set lo up
ip -n two addr add 10.77.0.2/24 dev two0
ip -n two link set two0 up
two() {
    nsenter --net=/run/netns/two unshare --uts -- env KUTTER_DATA_DIR="$WORK/two" HOME="$WORK/home2" \
        KUBECONFIG="$WORK/home2/config" sh -c 'hostname Two.machine; exec "$@"' - "$@"
}
mkdir -p "$WORK/home2"
join() { python3 "$TESTS/join.py" "$@"; }
PAGE='import sys, time, urllib.request
for i in range(100):
    try:
        print(urllib.request.urlopen("http://" + sys.argv[1] + "/healthz", timeout=2).status); sys.exit(0)
    except OSError as error:
        last = error; time.sleep(0.1)
sys.exit(f"{sys.argv[1]}: {last}")'
ask() { python3 -c "$PAGE" "$1" > /dev/null; }
two_ask() { two python3 -c "$PAGE" "$1" > /dev/null; }
"#;

const STEPS: &str = r#"
say 'nobody is let in unasked'
"$KUTTER" up --timeout 60 > /dev/null
if "$KUTTER" node token create 2> "$WORK/closed"; then exit 1; fi
grep -q 'up default --listen' "$WORK/closed"
if two "$KUTTER" node join 10.77.0.1 --token abcdef.0123456789abcdef --ca-hash sha256:00 --timeout 2 2> "$WORK/deaf"; then exit 1; fi
if "$KUTTER" up --listen 0.0.0.0 2> "$WORK/any"; then exit 1; fi
grep -q 'other machines can reach' "$WORK/any"

say 'a machine joins with the printed command'
"$KUTTER" up --listen 10.77.0.1 --demo --timeout 60 > /dev/null
"$KUTTER" node token create --ttl 1h --description 'for two' > "$WORK/command"
grep -q '^kutter node join 10.77.0.1:6443 --token [a-z0-9]*\.[a-z0-9]* --ca-hash sha256:[0-9a-f]*$' "$WORK/command"
set -- $(sed 's/^kutter //' "$WORK/command")
two "$KUTTER" "$@" --label zone=far --taint far=true:NoSchedule --timeout 60 2> "$WORK/joined" || { cat "$WORK/joined"; cat "$WORK"/two/clusters/*/log/*; exit 1; }
two "$KUTTER" demo image > /dev/null
join joined two.machine 10.77.0.2
join csr

say 'pods of both machines meet, through Services and load balancers, from both machines'
join pod near default-pool-0
join pod far two.machine
for name in near far; do
    for kind in pod cluster balancer; do
        if [ $kind = pod ]; then port=:8080; else port=; fi
        at=$(join address $name $kind)$port
        [ $kind = cluster ] || ask "$at" || { echo "$name $kind from one"; exit 1; }
        two_ask "$at" || { echo "$name $kind from two"; exit 1; }
    done
    join proxy $name
done

say 'certificates of nodes are signed by the cluster, and renewed in time'
for file in "$WORK"/data/clusters/default/nodes/default-pool-0 "$WORK"/two/clusters/default/nodes/two.machine; do
    for _ in $(seq 100); do test -s $file/pki/kubelet-server.pem && break; sleep 0.1; done
    test -s $file/pki/kubelet-server.pem
done
node=$WORK/two/clusters/default/nodes/two.machine
two "$KUTTER" down 2> /dev/null
cp "$WORK/due.pem" $node/client.pem
two "$KUTTER" up --timeout 60 > /dev/null 2>&1
for _ in $(seq 100); do cmp -s "$WORK/due.pem" $node/client.pem || break; sleep 0.1; done
if cmp -s "$WORK/due.pem" $node/client.pem; then exit 1; fi
join csr

say 'the member has its own status, logs, and comes back after down'
two "$KUTTER" status | grep -q 'https://10.77.0.1:6443'
two "$KUTTER" logs two.machine > /dev/null
if two "$KUTTER" kubeconfig 2> "$WORK/no"; then exit 1; fi
grep -q 'control plane' "$WORK/no"
two "$KUTTER" down 2> /dev/null
two "$KUTTER" up --timeout 60 > /dev/null 2>&1
two_ask "$(join address near pod):8080"
ask "$(join address far balancer)"

say 'tokens: listed without secrets, deleted, and then of no use'
"$KUTTER" node token list > "$WORK/tokens"
grep -q 'for two' "$WORK/tokens"
id=$(sed 's/.*--token \([a-z0-9]*\)\..*/\1/' "$WORK/command")
secret=$(sed 's/.*--token [a-z0-9]*\.\([a-z0-9]*\).*/\1/' "$WORK/command")
if grep -q "$secret" "$WORK/tokens"; then exit 1; fi
if two "$KUTTER" "$@" --as again --name two.machine 2> "$WORK/taken"; then exit 1; fi
grep -q 'runs already' "$WORK/taken"
"$KUTTER" node token delete "$id" > /dev/null
if two "$KUTTER" "$@" --as again --name three 2> "$WORK/over"; then exit 1; fi
grep -q 'not known or over' "$WORK/over"
if two "$KUTTER" node join 10.77.0.1 --token "$id.$secret" --ca-hash sha256:00 2> "$WORK/liar"; then exit 1; fi
grep -q 'is not the cluster that was meant' "$WORK/liar"
if grep -rqs "$secret" "$WORK"/data/clusters/*/log "$WORK"/two; then exit 1; fi

say 'leaving leaves nothing'
two "$KUTTER" delete --yes 2> /dev/null
test ! -e "$WORK/two"
test -z "$(ip -n two -o link show | grep -v ' lo:\| two0' || true)"
test -z "$(nsenter --net=/run/netns/two ip route show proto 75 || true)"
"$KUTTER" delete --yes 2> /dev/null
say 'done'
"#;

/// An authority for the cluster to come, and a certificate of the second machine's node that is good for a little more
/// than two minutes, so that it is to be renewed at once.
fn prepare(work: &Path) {
    let pki = manager::Layout::new(work.join("data")).control_plane("default").join("pki");
    std::fs::create_dir_all(&pki).expect("a folder");
    let authority = Authority::load_or_generate(&pki, "ca", "kubernetes-ca").expect("an authority");
    let subject = Subject::client("system:node:two.machine", ["system:nodes"]);
    let pair = authority.issue(&subject, Duration::from_secs(140)).expect("a certificate");
    std::fs::write(work.join("due.pem"), format!("{}{}", pair.certificate, pair.key)).expect("written");
}

#[test]
fn a_second_machine_joins_with_a_token_and_nothing_else() {
    namespaces::run(&format!("{MACHINES}{STEPS}"), prepare);
}
