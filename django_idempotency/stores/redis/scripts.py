"""
The steps of the RedisStore. Each is one script, atomic on the server and by the server's clock.

A script gets two or three keys of one hash slot. The first is the record of an identity, a hash; the second is a sorted
set of the digests of claims with this tag, by the end of their leases in milliseconds since the epoch; the third, if
late retries are refused, is the identity's tombstone, which is written with the record and outlives it: the fingerprint
(32 bytes) and executed_at. An answer begins with a word. Fields of the hash, beside those of a record (with executed_at
in milliseconds):

    state       claimed, completed, or freed (only rejected tokens are left)
    token       the owner's
    lease       the end of its lease, in milliseconds
    ttl         of the record to come, in milliseconds
    late        the time from then on for which a late retry is refused, in milliseconds; absent for none
    taken_over  "1" if it was taken over from another owner
    announced   the token of the request that announced the unknown outcome; "2" if the owner did; "1" if the claim is
                held for a probe, and its unknown outcome was announced before
    away        rejected tokens, whose claim was abandoned, or ended by an operator
    away_until  the end of their rejection, in milliseconds

A claim has no lifetime (PTTL -1), so that an unknown outcome stays, unless the option `uncertain_ttl` gives it one from
its beginning on. A claim of the version before has one. *uncertain* is that option in milliseconds, empty for none.

Any other value under these keys was not written by this package: it is reported and never overwritten. Only operators
read the sets, so a broken one does not affect requests.

The scripts that end a claim also run if the server's memory is full, so that an admitted request can be remembered
(redis.io, "Lua scripts: flags").
"""

_FIND = """
local record, claims, tombstone = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields = {'state', 'token', 'lease', 'fingerprint', 'status', 'head', 'body', 'request_id', 'announced',
    'executed_at', 'away', 'away_until', 'taken_over'}
local found = redis.pcall('HMGET', record, unpack(fields))
local garbage = found.err
local state, token, lease, fingerprint = found[1], found[2], tonumber(found[3] or nil), found[4]
if state == 'claimed' then
    garbage = not (token and lease and fingerprint) and 'a claim without its fields'
elseif state == 'completed' then
    garbage = not (token and fingerprint and found[5] and found[6] and found[7]) and 'a record without its fields'
elseif state == 'freed' then
    garbage = not found[11] and 'a freed key without its field'
elseif not garbage and (state or redis.call('EXISTS', record) == 1) then
    garbage = 'a hash without a state of ours'
end
local function completed() return {'completed', fingerprint, found[5], found[6], found[7], found[8] or ''} end
local away, away_until = found[11] or '', tonumber(found[12] or nil) or 0
if away_until <= now then away = '' end
local function keep_claim(executed_at, lease, uncertain)
    if uncertain == '' then
        redis.call('PERSIST', record)
    else
        redis.call('PEXPIREAT', record, math.max(executed_at + uncertain, lease))
    end
end
local function bury(milliseconds)
    redis.call('SET', tombstone, fingerprint .. (found[10] or '0'), 'PX', milliseconds)
end
"""

MOST_AWAY = 64  # rejected tokens of a key, of 32 characters each

# turn_away rejects a token from now on; keep_away deletes all but the rejected tokens.
_AWAY = f"""
local function turn_away(token, milliseconds)
    if not string.find(away, token, 1, true) then away = string.sub(away .. ' ' .. token, -{33 * MOST_AWAY}) end
    away_until = math.max(away_until, now + milliseconds)
end
local function keep_away()
    redis.call('DEL', record)
    if away ~= '' then
        redis.call('HSET', record, 'state', 'freed', 'away', away, 'away_until', away_until)
        redis.call('PEXPIRE', record, away_until - now)
    end
end
"""

_LET_IN = "#!lua flags=allow-oom"

# token, fingerprint, lease, ttl, take over? ("2": only what the token holds), digest, scope, operation, key, request,
# request id, late, uncertain
CLAIM = f"""{_FIND}
if garbage then return {{'garbage', garbage}} end
if state == 'completed' then return completed() end
local taken = 0
if ARGV[5] == '2' then
    if state ~= 'claimed' or token ~= ARGV[1] then return {{'stale'}} end
elseif state == 'claimed' then
    if token == ARGV[1] then return {{'claimed', tonumber(found[13] or 0) or 0}} end
    if lease > now then return {{'in flight', fingerprint}} end
end
if string.find(away, ARGV[1], 1, true) then return {{'in flight', fingerprint or ARGV[2]}} end
if state == 'claimed' then
    if ARGV[5] == '0' or fingerprint ~= ARGV[2] then
        if not found[9] then redis.pcall('HSET', record, 'announced', ARGV[1]) end
        return {{'unsettled', fingerprint, (found[9] or ARGV[1]) == ARGV[1] and 1 or 0}}
    end
    taken = 1
elseif tombstone then
    local buried = redis.pcall('GET', tombstone)
    if buried and type(buried) ~= 'string' then return {{'garbage', buried.err}} end
    if buried then return {{'expired', string.sub(buried, 1, 32)}} end
end
redis.call('HSET', record, 'state', 'claimed', 'token', ARGV[1], 'fingerprint', ARGV[2], 'lease', now + ARGV[3],
    'ttl', ARGV[4], 'scope', ARGV[7], 'operation', ARGV[8], 'key', ARGV[9], 'request', ARGV[10],
    'request_id', ARGV[11], 'executed_at', now, 'taken_over', taken)
if state then redis.call('HDEL', record, 'announced', 'late') end
if ARGV[12] ~= '0' then redis.call('HSET', record, 'late', ARGV[12]) end
keep_claim(now, now + ARGV[3], ARGV[13])
redis.pcall('ZADD', claims, now + ARGV[3], ARGV[6])
return {{'claimed', taken}}
"""

# token, digest, fingerprint, lease
HOLD = f"""{_FIND}
if garbage or state ~= 'claimed' or fingerprint ~= ARGV[3] then return false end
if token ~= ARGV[1] then
    if lease > now then return false end
    redis.call('HSET', record, 'token', ARGV[1], 'lease', now + ARGV[4])
    if found[9] == ARGV[1] then
        redis.call('HDEL', record, 'announced')
    elseif found[9] then
        redis.call('HSET', record, 'announced', '1')
    end
    redis.pcall('ZADD', claims, now + ARGV[4], ARGV[2])
end
return found[10] or '0'
"""

# token, digest, ttl, status, head, body, late
COMPLETE = f"""{_LET_IN}
{_FIND}
if garbage then return {{'garbage', garbage}} end
if not state then return {{'gone'}} end
if token ~= ARGV[1] then return state == 'completed' and completed() or {{'stale'}} end
if state == 'claimed' then
    redis.call('HSET', record, 'state', 'completed', 'status', ARGV[4], 'head', ARGV[5], 'body', ARGV[6])
    redis.call('HDEL', record, 'lease', 'ttl', 'late', 'announced', 'taken_over')
    redis.call('PEXPIRE', record, ARGV[3])
    if ARGV[7] ~= '0' then bury(ARGV[3] + ARGV[7]) end
    redis.pcall('ZREM', claims, ARGV[2])
end
return {{'kept'}}
"""

# token, digest, and the milliseconds for which an abandoned claim is rejected, or 0
RELEASE = f"""{_LET_IN}
{_FIND}{_AWAY}
if garbage or state == 'completed' then return 0 end
if ARGV[3] ~= '0' then turn_away(ARGV[1], ARGV[3]) end
if state == 'claimed' and token ~= ARGV[1] then
    if away ~= '' then redis.call('HSET', record, 'away', away, 'away_until', away_until) end
    return 0
end
keep_away()
redis.pcall('ZREM', claims, ARGV[2])
return 1
"""

# token, digest, lease, uncertain, announced?
RENEW = f"""{_LET_IN}
{_FIND}
if garbage or state ~= 'claimed' or token ~= ARGV[1] then return 0 end
if found[9] == '2' then return 0 end -- a renewal that was on its way when its owner gave the claim up
redis.call('HSET', record, 'lease', now + ARGV[3])
if ARGV[5] == '2' then redis.call('HSET', record, 'announced', '2') else redis.call('HDEL', record, 'announced') end
keep_claim(tonumber(found[10] or nil) or now, now + ARGV[3], ARGV[4])
redis.pcall('ZADD', claims, now + ARGV[3], ARGV[2])
return 1
"""

# --- for operators ---

# digest, executed_at ('' for any, 0 for garbage), "1" to free only an unsettled outcome
FREE = f"""{_LET_IN}
{_FIND}{_AWAY}
if garbage then
    if ARGV[2] ~= '' and ARGV[2] ~= '0' then return 'other' end
    redis.call('DEL', record)
    redis.pcall('ZREM', claims, ARGV[1])
    return 'freed'
end
if not state or state == 'freed' then
    local buried = redis.pcall('GET', tombstone)
    if not buried then return 'nothing' end
    local executed_at = type(buried) == 'string' and string.sub(buried, 33) or '0'
    if ARGV[3] == '1' or (ARGV[2] ~= '' and ARGV[2] ~= executed_at) then return 'other' end
    redis.call('DEL', tombstone)
    return 'freed'
end
if ARGV[2] ~= '' and found[10] ~= ARGV[2] and (tonumber(found[10] or nil) or ARGV[2] ~= '0') then return 'other' end
if state == 'claimed' and lease > now then return 'in flight' end
if state == 'completed' and ARGV[3] == '1' and ARGV[2] ~= '0' and tonumber(found[5]) then return 'other' end
turn_away(token, math.max(redis.call('PTTL', record), tonumber(redis.call('HGET', record, 'ttl') or nil) or 1))
keep_away()
redis.call('DEL', tombstone)
redis.pcall('ZREM', claims, ARGV[1])
return 'freed'
"""

# digest, executed_at ('' for any), token, status, head, body
SETTLE = f"""{_LET_IN}
{_FIND}
if garbage or not state or state == 'freed' then return 'nothing' end
if ARGV[2] ~= '' and found[10] ~= ARGV[2] then return 'other' end
if state == 'completed' then return 'other' end
if lease > now then return 'in flight' end
local ttl, late = unpack(redis.call('HMGET', record, 'ttl', 'late'))
redis.call('HSET', record, 'state', 'completed', 'token', ARGV[3], 'status', ARGV[4], 'head', ARGV[5], 'body', ARGV[6])
redis.call('HDEL', record, 'lease', 'ttl', 'late', 'announced', 'taken_over')
if ttl then redis.call('PEXPIRE', record, ttl) end
if ttl and late then bury(ttl + late) end
redis.pcall('ZREM', claims, ARGV[1])
return 'settled'
"""

# Answers with the server's time, the rest of the record's lifetime in milliseconds, and all its fields.
SHOW = f"""{_FIND}
if garbage then return {{'garbage', now}} end
if not state or state == 'freed' then
    local buried = redis.pcall('GET', tombstone)
    if type(buried) ~= 'string' then return {{buried and 'garbage' or 'nothing', now}} end
    return {{'tombstone', now, redis.call('PTTL', tombstone), buried}}
end
if state == 'claimed' and lease > now then return {{'claim'}} end
return {{'found', now, redis.call('PTTL', record), redis.call('HGETALL', record)}}
"""

# limit; the only key is the set of claims
OVERDUE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
"""

# digest, whose record is gone
FORGET = f"""{_LET_IN}
{_FIND}
return state ~= 'claimed' and redis.call('ZREM', claims, ARGV[1]) or 0
"""
