-- get.lua with a pause of $BENCH_PAUSE_MS before each request of a connection, so that the
-- server is not kept as busy as it can be.
dofile(os.getenv("BENCH_LUA") .. "/get.lua")
local pause = tonumber(os.getenv("BENCH_PAUSE_MS") or "8")

function delay()
  return pause
end
