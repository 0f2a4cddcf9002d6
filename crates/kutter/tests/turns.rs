//! Wrong input to the managed service, and its processes killed in turns: each is told in words that say what to do, and
//! nothing is lost.

mod namespaces;

const STEPS: &str = r#"
pid_of() { "$KUTTER" status -o json | python3 -c "
import json, sys
for p in json.load(sys.stdin)[0]['processes']:
    if p['role'] == '$1': print(p['pid'])" | head -1; }
refused() { # WORDS COMMAND…: the command fails with these words
    words=$1; shift
    if "$@" > "$WORK/told" 2>&1; then echo "not refused: $*"; cat "$WORK/told"; exit 1; fi
    grep -q -- "$words" "$WORK/told" || { echo "no '$words' in:"; cat "$WORK/told"; exit 1; }
}
as_nobody() { python3 -c 'import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])' "$@"; }

say 'no root: what is missing, and what to do'
chmod 755 "$WORK"
install -d -m 755 "$WORK/locked"
install -m 755 "$KUTTER" "$WORK/kutter" # nobody may not look into the folder of who builds
KUTTER_DATA_DIR="$WORK/locked/data" refused 'root is needed, or --data-dir' as_nobody "$WORK/kutter" up
KUTTER_DATA_DIR="$WORK/locked/data" refused 'run as root' as_nobody "$WORK/kutter" doctor

say 'a wrong kubeconfig is named'
refused '/nowhere' "$KUTTER" node --kubeconfig /nowhere
echo 'clusters: 7' > "$WORK/wrong"
refused "$WORK/wrong" "$KUTTER" controllers --kubeconfig "$WORK/wrong"
refused "$WORK/wrong" "$KUTTER" backup "$WORK/b" --kubeconfig "$WORK/wrong"

say 'a port in use is told at once, and the cluster comes when it is free'
python3 -c 'import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 6443)); s.listen(); time.sleep(600)' &
squatter=$!
for _ in $(seq 100); do "$KUTTER" doctor > "$WORK/doctor" || true; grep -q '6443 is taken' "$WORK/doctor" && break; sleep 0.1; done
grep -q 'ss -ltnp' "$WORK/doctor"
refused '127.0.0.1:6443.*Address already in use' "$KUTTER" up --timeout 60
kill $squatter
"$KUTTER" up --demo --timeout 60 > "$WORK/up" 2>&1 || { cat "$WORK/up"; exit 1; }

say 'a second manager of other data is refused'
KUTTER_DATA_DIR="$WORK/other" refused "another manager .*--data-dir $WORK/data" "$KUTTER" up
KUTTER_DATA_DIR="$WORK/other" refused 'another manager' "$KUTTER" doctor
test ! -e "$WORK/other/clusters"
refused 'another manager' "$KUTTER" manager

say 'whoever is killed comes back, and no container notices'
SHOP=http://127.0.0.1:$("$KUTTER" status -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["ingress"].rsplit(":")[-1])')
export SHOP
page() { python3 -c 'import sys, time, urllib.request
for i in range(200):
    try:
        urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"host": "shop.localhost"}), timeout=2); sys.exit(0)
    except OSError as error:
        last = error; time.sleep(0.1)
sys.exit(f"no page: {last}")' "$SHOP"; }
page
for victim in control-plane node manager control-plane node; do
    if [ $victim = manager ]; then
        kill -9 "$(cat "$KUTTER_DATA_DIR/manager/lock")"
        sleep 0.2
        "$KUTTER" doctor > "$WORK/doctor" || true
        grep -q 'was killed' "$WORK/doctor"
    else
        before=$(pid_of $victim)
        kill -9 "$before"
        for _ in $(seq 100); do after=$(pid_of $victim); [ -n "$after" ] && [ "$after" != "$before" ] && break; sleep 0.1; done
        test "$after" != "$before"
    fi
    "$KUTTER" up --timeout 60 > /dev/null 2>&1
    page
done
python3 "$TESTS/turns.py" untouched

say 'everything killed at once, as when a machine is reset: the data is there'
python3 "$TESTS/turns.py" note
for pid in $(ps -eo pid,args | awk '/kutter|shop/ && !/awk/ {print $1}'); do [ "$pid" = $$ ] || kill -9 "$pid" 2> /dev/null || true; done
sleep 0.5
"$KUTTER" up --timeout 60 > /dev/null 2>&1 || { "$KUTTER" status; exit 1; }
python3 "$TESTS/turns.py" noted
page

say 'logs say what happened, a line each, and no secrets'
"$KUTTER" logs manager > "$WORK/log"
for words in 'manager started' 'started.*role="control-plane"' 'ready.*role="node"' ended adopted; do
    grep -q "$words" "$WORK/log" || { echo "no '$words' in the manager's log"; cat "$WORK/log"; exit 1; }
done
"$KUTTER" logs > "$WORK/log"
grep -q 'control plane started' "$WORK/log"
"$KUTTER" logs default-pool-0 > "$WORK/log"
for words in 'node started' registered 'reason="Started"'; do
    grep -q "$words" "$WORK/log" || { echo "no '$words' in the node's log"; tail -40 "$WORK/log"; exit 1; }
done
if grep -rq 'PRIVATE KEY\|eyJhbGciOi' "$WORK"/data/clusters/default/log "$WORK/data/manager/manager.log"; then exit 1; fi
timeout 20 "$KUTTER" logs manager -f > "$WORK/followed" &
follower=$!
sleep 0.3
kill -9 "$(pid_of node)"
for _ in $(seq 100); do grep -c 'role="node"' "$WORK/followed" > "$WORK/count" || true; tail -5 "$WORK/followed" | grep -q 'ready.*role="node"' && break; sleep 0.1; done
tail -5 "$WORK/followed" | grep -q 'role="node"'
kill $follower
"$KUTTER" delete --yes 2> /dev/null
say 'done'
"#;

#[test]
fn whoever_is_killed_comes_back_and_wrong_input_is_told() {
    namespaces::run(STEPS, |_| {});
}
