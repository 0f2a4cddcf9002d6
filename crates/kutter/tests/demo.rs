//! The demo and its whole tour over three local nodes, as the README shows them.

mod namespaces;

#[test]
fn the_demo_answers_and_its_tour_comes_to_its_end() {
    namespaces::run(
        r#"
say 'one command makes a cluster of three nodes with the shop on it'
"$KUTTER" up --nodes 3 --demo --timeout 90 | tee "$WORK/up"
grep -q 'Demo is ready: http://shop.localhost' "$WORK/up"

say 'the tour takes every step'
"$KUTTER" demo tour --yes --timeout 150 -o json > "$WORK/tour"
python3 - "$WORK/tour" <<'PY'
import json, sys
done = json.load(open(sys.argv[1]))
assert [d["step"] for d in done] == ["scale", "crash", "node", "load", "roll-out"], done
assert not any("left out" in d["result"] for d in done), done
PY

say 'the demo goes'
"$KUTTER" demo remove
"$KUTTER" delete --yes > /dev/null
say 'done'
"#,
        |_| {},
    );
}
