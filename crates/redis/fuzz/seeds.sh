#!/usr/bin/env bash
# Lays into the corpora what stock servers published, as the tests have it, alone and pushed to a subscriber; and what
# only nodes and older peers say.
# shellcheck disable=SC2016 # The dollar signs are those of RESP.
set -euo pipefail
cd "$(dirname "$0")"

# vectors FILE LIST: channel and payload of each, the payload as escapes.
vectors() {
    awk -v list="$2" '
        /^ "/ { wanted = index($0, "\"" list "\":") }
        wanted && /^   "channel": / { split($0, channel, "\"") }
        wanted && /^   "payload_hex": / { split($0, hex, "\""); gsub(/../, "\\x&", hex[4]); print channel[4] "\t" hex[4] }
    ' "../tests/vectors/$1"
}

# seed TARGET FILE LIST: one file for each vector.
seed() {
    local channel payload count=0
    mkdir -p "corpus/$1" corpus/resp_frame corpus/resp_command
    while IFS=$'\t' read -r channel payload; do
        count=$((count + 1))
        printf '%b' "$payload" >"corpus/$1/$3-$count"
        printf '>3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$%d\r\n%b\r\n' \
            "${#channel}" "$channel" $((${#payload} / 4)) "$payload" >"corpus/resp_frame/$3-$count"
        printf '%s\xff%b' "$channel" "$payload" >"corpus/resp_command/$3-$count"
    done < <(vectors "$2" "$3")
    [ "$count" -gt 0 ] || {
        echo "fuzz: there are no $3 in $2" >&2
        exit 1
    }
}

# extra TARGET PAYLOAD...: one file for each, which may hold escapes.
extra() {
    local target=$1 payload count=0
    shift
    for payload in "$@"; do
        count=$((count + 1))
        printf '%b' "$payload" >"corpus/$target/extra-$count"
    done
}

seed adapter_envelope redis-adapter.json broadcasts
seed adapter_request requests.json requests
seed adapter_answer requests.json answers

extra adapter_envelope \
    '\x93\xa1u\x82\xa4type\x02\xa4data\x92\xadpresence_join\x80\x81\xa5flags\x81\xa8presence\xc3' \
    '\x93\xa1u\x83\xa4type\x02\xa4data\x92\xa1e\x80\xa3nsp\xa2/a\x81\xa5flags\x82\xa8volatile\xc3\xa4meta\xc3'
extra adapter_request \
    '{"uid":"u","requestId":"i","type":0,"rooms":["r",7,-7]}' \
    '{"uid":"u","requestId":"i","type":4,"opts":{"rooms":["r"],"except":[]},"close":true,"node":"gw-1"}' \
    '{"sid":"s","room":"r","requestId":"i","type":2}' \
    '{"sid":"s","room":7,"requestId":"i","type":3,"opts":null}' \
    '{"sid":"s","requestId":"i","type":4,"close":true}' \
    '\x84\xa3sid\xa1s\xa4room\xa1r\xa9requestId\xa1i\xa4type\x02' \
    '\x85\xa3uid\xa1u\xa9requestId\xa1i\xa4type\x05\xa4node\xa4gw-1\xa4opts\x82\xa5rooms\x91\x07\xa6except\x91\xa1c' \
    '\x83\xa3uid\xa1u\xa4type\x06\xa4data\x92\xa1e\x81\xa1x\xc0' \
    '\x83\xa4type\x07\xa6packet\x82\xa4type\x02\xa4data\x91\xa1e\xa4opts\x81\xa5flags\x82\xa7timeout\x05\xa8volatile\xc3'
extra adapter_answer \
    '{"requestId":"i","matched":3,"node":"gw-1"}' \
    '{"requestId":"i","sockets":["x"],"node":"gw-1"}' \
    '{"requestId":"i","sockets":[{"id":"x","handshake":{"issued":5},"rooms":["x",7],"data":{"user":"ann","device":"phone","node":"gw-1"}}],"node":"gw-1"}' \
    '\x84\xa4type\x09\xa9requestId\xa1i\xa6packet\xd6\xff\0\0\0\x01\xa4node\xa4gw-1'
extra resp_frame \
    '*9\r\n+s\r\n-e\r\n:-1\r\n_\r\n,1.5\r\n#t\r\n(12\r\n=5\r\ntxt:x\r\n!1\r\ne\r\n' \
    '%1\r\n$2\r\nid\r\n~2\r\n$-1\r\n*-1\r\n|1\r\n+k\r\n+v\r\n:7\r\n' \
    '>3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n' \
    '>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n'
