#!/bin/bash
# Codecs by policy: the same program's memory packs denser by zstd than by lz4, old pages go from lz4
# to zstd in the background, and every byte stays what it was.
#
# RECORDS: how many records redis gets.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need sqlite3

records=${RECORDS:-30000}

settings() { # LINES of the policy
	printf '%s\n\n[policy redis]\nmatch-exe = redis-*\n%s\n' "$everyone" "$1"
}

reload() {
	settings "$1" >"$work/larder.conf"
	larder reload >"$work/reload.out"
}

service() { json ".service.$1"; }

# Evicts all; sets stored to what that takes.
evict_stored() {
	evict_fully
	evicted=$(client evicted_bytes)
	stored=$(client stored_bytes)
	[ "$evicted" -gt $((records * 300)) ] || fail "only $evicted bytes were evicted"
}

same_digest() { # WHEN
	local digest
	digest=$(redis_digest)
	[ "$digest" = "$before" ] || fail "$1: the digest was $before and is $digest"
	[ "$(service corrupt_pages)" -eq 0 ] || fail "$1: corrupt pages"
}

larderd_start "$(settings 'codec = lz4')"
redis_start
redis_fill "$records"
before=$(redis_digest)

# ---- lz4, then zstd ----
evict_stored
lz4_stored=$stored lz4_evicted=$evicted
[ "$(service lz4_pages)" -gt 0 ] || fail 'no page was packed by lz4'
[ "$(service zstd_pages)" -eq 0 ] || fail 'pages were packed by zstd'
same_digest 'after lz4'

reload 'codec = zstd
level = 6'
larder release "$client_pid" >"$work/release.out" # what was not read is out yet, packed by lz4
evict_stored
[ "$(service zstd_pages)" -gt 0 ] || fail 'no page was packed by zstd'
[ "$(service lz4_pages)" -eq 0 ] || fail 'pages were packed by lz4'
[ "$(service zstd_bytes)" -gt 0 ] || fail 'no bytes are counted for zstd'
same_digest 'after zstd'
echo "$lz4_evicted bytes by lz4: $lz4_stored, $evicted by zstd: $stored"
[ $((lz4_evicted * stored)) -lt $((evicted * lz4_stored * 9 / 10)) ] ||
	fail 'zstd is not a tenth denser than lz4'

# ---- from lz4 to zstd ----
reload 'codec = lz4
level = 6
recompress-after = 1s'
larder release "$client_pid" >"$work/release.out"
evict_stored
old=$stored
all_recompressed() {
	larder status --json | jq -e '.service |
		.pages_recompressed > 0 and .lz4_pages + .raw_pages <= .recompress_left'
}
wait_for all_recompressed || fail 'pages stay with lz4'
json '.service | "\(.pages_recompressed) pages recompressed, \(.recompress_left) left, " +
	"\(.recompress_cpu_us) us, \(.lz4_pages) lz4, \(.zstd_pages) zstd"'
[ "$(client evicted_bytes)" -gt 0 ] || fail 'nothing is out any more'
[ "$(service recompress_cpu_us)" -gt 0 ] || fail 'no processor time was counted'
[ "$(service zstd_pages)" -gt "$(service lz4_pages)" ] || fail 'fewer pages by zstd than by lz4'
new=$(client stored_bytes)
echo "before recompression $old, after $new"
[ $((new * 10)) -lt $((old * 9)) ] || fail 'recompression did not make it a tenth smaller'

# The index says the same, as soon as it was written.
index_says() {
	local in_index
	in_index=$(sqlite3 -readonly "$LARDER_RUNTIME_DIR/store/index.db" \
		"SELECT stored_bytes FROM clients WHERE pid = $client_pid")
	[ "$in_index" -eq "$(client stored_bytes)" ]
}
wait_for index_says || fail 'the index says other bytes than the status'
same_digest 'after recompression'

# What came back is no dead weight, though nothing else happens that would need a transaction.
evict_fully
larder release "$client_pid" >"$work/release.out"
nothing_dead() { json ".service | .stored_bytes < $((1 << 20)) and .dead_bytes < $((1 << 20))"; }
wait_for nothing_dead || fail "$(service dead_bytes) bytes of the store hold no page"
larderd_stop
