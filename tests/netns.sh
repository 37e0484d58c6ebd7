#!/usr/bin/env bash
# A cluster over links that delay, lose, reorder, break and go silent in one direction: a run of its own, not part of tests/run.sh.
#
#   sudo bash tests/netns.sh [--release]
#
# It needs root, iproute2 and a kernel with network namespaces and veth, and installs nothing. It builds the command line (the debug build, or
# the release one), makes four network namespaces with private addresses, and joins them by veth pairs:
#
#   host ─── net ─┬─ left
#                 └─ right
#
# `net` forwards, and everything is broken there, as it would be between machines. A host with a token and a subscriber are in `host`, two
# subscribers in each of `left` and `right`, a publisher in each of the three. While they publish, the links get worse, break and heal. At
# the end every subscriber must have printed the whole order, every message once, without a gap and without a reset, since the host's ring covers all
# of it; and every publisher must have ended well with everything it sent in the order.
#
# The faults come from netem. Where the kernel has none, htb and a classic BPF classifier that draws lots take its place: packets are lost, or
# go through a slow queue and so come late and overtaken; what goes the fast way waits only as its queue makes it. It says which it was.
#
# Nothing outside of the namespaces is sent anything. It ends within 90 s after the build, and every way out ends its processes, by id, and
# removes its namespaces.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

# How long it may take, in seconds after the build.
readonly LIMIT=90
# Each fault lasts so long, in seconds.
readonly SPAN=4
# Longer than the age mark of members and the lease of connections (5 s): those behind it are given up, and come back.
readonly OUTAGE=8
# A publisher writes so many lines at a time, and waits as many seconds.
readonly BURST=10 PAUSE=0.05
readonly PORT=5555

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

profile=debug build=()
case ${1-} in
    '') ;;
    --release) profile=release build=(--release) ;;
    *) fail "unknown option $1; usage: sudo bash tests/netns.sh [--release]" ;;
esac
[[ $(uname -s) == Linux ]] || fail "network namespaces are there on Linux only"
((EUID == 0)) || fail "network namespaces need root: sudo bash tests/netns.sh"
for tool in ip tc; do
    command -v "$tool" >/dev/null || fail "$tool is needed, of iproute2 (on Debian: apt install iproute2)"
done
command -v cargo >/dev/null || fail "cargo is needed, also for root: sudo env PATH=\"\$PATH\" bash tests/netns.sh"

cargo build --locked --features cli --bin zincmq ${build[@]+"${build[@]}"}
zincmq=$(realpath "${CARGO_TARGET_DIR:-target}/$profile/zincmq")
[[ -x $zincmq ]] || fail "cargo made no $zincmq"

SECONDS=0
dir=$(mktemp -d)
namespaces=()
ns() { printf 'zincmq-%d-%s' "$$" "$1"; }

# Ends what is left, by id, and removes what was made.
cleanup() {
    local status=$? pid namespace
    trap - EXIT INT TERM HUP
    # The ids of what was started here and has not ended.
    for pid in $(jobs -pr); do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    # Their links go with them.
    for namespace in "${namespaces[@]}"; do ip netns del "$namespace" || true; done
    if ((status == 0)); then
        rm -rf "$dir"
    else
        printf 'What they said is in %s\n' "$dir" >&2
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Waits until a command succeeds, looking ten times a second.
await() {
    local what=$1
    shift
    until "$@"; do
        ((SECONDS < LIMIT)) || fail "after $LIMIT s still not: $what"
        sleep 0.1
    done
}

step "Namespaces"
for name in host net left right; do
    ip netns add "$(ns "$name")" || fail "this kernel, or this container, lets nobody make network namespaces"
    namespaces+=("$(ns "$name")")
    ip -n "$(ns "$name")" link set lo up
done
# Joins `net` to another: 10.213.N.1 is there, 10.213.N.2 in the other.
join() {
    local name=$1 number=$2
    ip -n "$(ns net)" link add "to-$name" type veth peer name uplink netns "$(ns "$name")" ||
        fail "this kernel has no veth"
    ip -n "$(ns net)" address add "10.213.$number.1/24" dev "to-$name"
    ip -n "$(ns "$name")" address add "10.213.$number.2/24" dev uplink
    # One packet is one packet: veth would hand on 64 KiB at a time, to be lost whole.
    ip -n "$(ns net)" link set "to-$name" gso_max_segs 1 gso_max_size 1500 up
    ip -n "$(ns "$name")" link set uplink gso_max_segs 1 gso_max_size 1500 up
    ip -n "$(ns "$name")" route add default via "10.213.$number.1"
}
join host 1
join left 2
join right 3
ip netns exec "$(ns net)" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
readonly ADDRESS=tcp://10.213.1.2:$PORT

if ip netns exec "$(ns net)" tc qdisc add dev to-left root netem delay 1ms 2>"$dir/netem"; then
    faults=netem
    ip netns exec "$(ns net)" tc qdisc del dev to-left root
    printf 'faults by netem\n'
else
    faults=htb
    printf 'no netem in this kernel (%s): faults by htb and bpf, without a delay of every packet\n' \
        "$(tr '\n' ' ' <"$dir/netem")"
fi

# worsen NAME DELAY_MS LOSS_PERCENT LATE_PERCENT: what goes from `net` to there.
worsen() {
    local device=to-$1 delay=$2 loss=$3 late=$4
    local tc=(ip netns exec "$(ns net)" tc)
    mend "$1"
    if [[ $faults == netem ]]; then
        # Those that are not late go at once, in front of the others.
        "${tc[@]}" qdisc add dev "$device" root netem limit 10000 delay "${delay}ms" "$((delay / 2))ms" \
            loss "$loss%" ${late:+reorder "$((100 - late))%"}
        return
    fi
    # The fast way, the slow one, on which a packet takes about the delay after another, and the one on which nothing fits.
    local slow=$((1500 * 8 * 1000 / delay))
    "${tc[@]}" qdisc add dev "$device" root handle 1: htb default 1
    "${tc[@]}" class add dev "$device" parent 1: classid 1:1 htb rate 20mbit quantum 1500
    "${tc[@]}" class add dev "$device" parent 1: classid 1:2 htb rate "${slow}bit" burst 1 cburst 1 quantum 1500
    "${tc[@]}" class add dev "$device" parent 1: classid 1:3 htb rate 8kbit quantum 1500
    "${tc[@]}" qdisc add dev "$device" parent 1:1 bfifo limit 256kb
    "${tc[@]}" qdisc add dev "$device" parent 1:2 bfifo limit 16kb
    "${tc[@]}" qdisc add dev "$device" parent 1:3 bfifo limit 1
    # load a random number; if it is below the share of loss: 1:3; if below that of those that come late: 1:2; else 1:1
    local lost=$((0xffffffff / 100 * loss)) slowed=$((0xffffffff / 100 * (loss + ${late:-30})))
    "${tc[@]}" filter add dev "$device" parent 1: bpf bytecode \
        "6,32 0 0 4294963256,53 1 0 $lost,6 0 0 65539,53 1 0 $slowed,6 0 0 65538,6 0 0 65537" classid 1:1
}
mend() { ip netns exec "$(ns net)" tc qdisc del dev "to-$1" root 2>/dev/null || true; }
# What the queues of `net` have passed and dropped: that there were faults at all.
show_drops() {
    local name
    for name in host left right; do
        printf 'to %-6s' "$name:"
        ip netns exec "$(ns net)" tc -s qdisc show dev "to-$name" | awk '
            /^qdisc/ { kind = $2 == "bfifo" ? " " $2 " of " $5 : " " $2 }
            /Sent/ { match($0, /dropped [0-9]+/); printf "%s: %s packets, %s;", kind, $4, substr($0, RSTART, RLENGTH) }
            END { print "" }'
    done
}

step "A host, five subscribers, three publishers"
ZINCMQ_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export ZINCMQ_TOKEN
# start NAMESPACE FILE ARGUMENT…: `ip netns exec` becomes the command, so that the id is its own.
start() {
    local namespace=$1 file=$2
    shift 2
    ip netns exec "$(ns "$namespace")" "$zincmq" --json "$@" <&0 >"$dir/$file" 2>"$dir/$file.err" &
    id[$file]=$!
}
declare -A id
start host the-host host --bind "$ADDRESS"
await "the host listens" grep -q '"event":"listening"' "$dir/the-host"
subscribers=(sub-host sub-left-1 sub-left-2 sub-right-1 sub-right-2)
for subscriber in "${subscribers[@]}"; do
    namespace=${subscriber#sub-}
    start "${namespace%-*}" "$subscriber" sub "$ADDRESS" --timeout 30
done
for subscriber in "${subscribers[@]}"; do
    await "$subscriber has joined" grep -q '"event":"joined"' "$dir/$subscriber"
done

# Lines, numbered, until there are enough.
feed() {
    local number=0 end
    while [[ ! -e $dir/enough ]]; do
        for ((end = number + BURST; number < end; number++)); do
            printf '%s %d %064d\n' "$1" "$number" 0
        done
        sleep "$PAUSE"
    done
}
publishers=(pub-host pub-left pub-right)
for publisher in "${publishers[@]}"; do
    namespace=${publisher#pub-}
    mkfifo "$dir/$publisher.in"
    feed "$publisher" >"$dir/$publisher.in" &
    start "$namespace" "$publisher" pub "$ADDRESS" --topic "$publisher" --timeout "$LIMIT" <"$dir/$publisher.in"
done

# A subscriber's last seq: of the last line that was written whole.
last_seq() { tail -n 2 "$dir/$1" | grep -o '"seq":[0-9]*' | head -n 1 | cut -d: -f2 || true; }
passed() { [[ $(last_seq "$1") -ge $2 ]]; }
# Waits until all have passed what the host's neighbour has now.
catch_up() {
    local goal subscriber
    goal=$(last_seq sub-host)
    for subscriber in "${subscribers[@]}"; do
        await "$subscriber has come to $goal" passed "$subscriber" "$goal"
    done
    printf 'all have come to seq %s\n' "$goal"
}
# Lets an outage last, and sees in its last two seconds that it is one: those in this namespace stand still, and all others go on.
outage() {
    local name=$1 seconds=$2 subscriber
    local -A before
    sleep "$((seconds - 2))"
    for subscriber in "${subscribers[@]}"; do before[$subscriber]=$(last_seq "$subscriber"); done
    sleep 2
    for subscriber in "${subscribers[@]}"; do
        if [[ $subscriber == "sub-$name"* ]]; then
            passed "$subscriber" "$((before[$subscriber] + 1))" && fail "$subscriber is not cut off"
        else
            passed "$subscriber" "$((before[$subscriber] + 1))" || fail "$subscriber stands still, too"
        fi
    done
    return 0
}
for publisher in "${publishers[@]}"; do
    for subscriber in "${subscribers[@]}"; do
        await "$subscriber hears $publisher" grep -q "\"topic\":\"$publisher\"" "$dir/$subscriber"
    done
done

step "Delay and jitter"
for name in host left right; do worsen "$name" 20 0 ''; done
sleep "$SPAN"
show_drops
catch_up

step "Loss and reordering, from here to the end"
for name in host left right; do worsen "$name" 20 3 20; done
sleep "$SPAN"
show_drops
catch_up

step "A link that is down for $SPAN s, less than the marks"
ip -n "$(ns net)" link set to-right down
outage right "$SPAN"
ip -n "$(ns net)" link set to-right up
catch_up

step "Nothing gets to the left for $OUTAGE s, everything from there"
ip -n "$(ns net)" route add blackhole 10.213.2.2/32
outage left "$OUTAGE"
ip -n "$(ns net)" route del blackhole 10.213.2.2/32
catch_up

step "Nothing gets from the right for $OUTAGE s, everything to there"
ip -n "$(ns net)" rule add iif to-right blackhole
outage right "$OUTAGE"
ip -n "$(ns net)" rule del iif to-right blackhole
catch_up

step "The end"
for name in host left right; do mend "$name"; done
touch "$dir/enough"
ended() { ! kill -0 "$1" 2>/dev/null; }
sent=0
for publisher in "${publishers[@]}"; do
    await "$publisher has ended" ended "${id[$publisher]}"
    wait "${id[$publisher]}" || fail "$publisher: exit code $?: $(<"$dir/$publisher.err")"
    count=$(grep -o '"event":"done","sent":[0-9]*' "$dir/$publisher" | cut -d: -f3)
    printf '%s: %d messages\n' "$publisher" "$count"
    ((sent += count))
done
all_there() { [[ $(grep -c '"event":"message"' "$dir/$1") -ge $sent ]]; }
for subscriber in "${subscribers[@]}"; do
    await "$subscriber has $sent messages" all_there "$subscriber"
done
# In order: the host last.
for process in "${subscribers[@]}" the-host; do
    kill -TERM "${id[$process]}"
    await "$process has ended" ended "${id[$process]}"
    wait "${id[$process]}" || fail "$process: exit code $?: $(<"$dir/$process.err")"
done

step "What they printed"
for subscriber in "${subscribers[@]}"; do
    grep '"event":"message"' "$dir/$subscriber" >"$dir/$subscriber.messages"
    if grep -E '"event":"(reset|lagged|consumer_overrun|events_missed)"' "$dir/$subscriber"; then
        fail "$subscriber missed something, which the host's ring covers"
    fi
    # One epoch, all seqs from 1, and all numbers of each publisher in their order.
    awk -v sent="$sent" '
        function number(name) { match($0, "\"" name "\":[0-9]+"); return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3) + 0 }
        function wrong(what) { print "line " NR ": " what ": " $0; failed = 1; exit 1 }
        {
            if (NR == 1) epoch = number("epoch")
            if (number("epoch") != epoch || number("seq") != NR) wrong("not the next in the order")
            match($0, /"payload":"[^"]*"/)
            split(substr($0, RSTART + 11, RLENGTH - 12), payload, " ")
            if (payload[2] != next_of[payload[1]] + 0) wrong("not the next of its publisher")
            next_of[payload[1]]++
        }
        END { if (!failed && NR != sent) wrong(NR " of " sent " messages") }' "$dir/$subscriber.messages" ||
        fail "$subscriber: an order with faults"
    cmp "$dir/sub-host.messages" "$dir/$subscriber.messages" || fail "$subscriber saw another order"
    printf '%s: %d messages, one order; %d times disconnected, %d times evicted\n' "$subscriber" "$sent" \
        "$(grep -c '"event":"disconnected"' "$dir/$subscriber" || true)" \
        "$(grep -c '"event":"evicted"' "$dir/$subscriber" || true)"
done

step "All is well"
