#!lua flags=no-writes,allow-cross-slot-keys
-- Metrics of Corral for redis_exporter: redis_exporter -script corral.lua
--
-- The exporter runs this script with EVAL at each scrape. It shows every field of INFO corral, and the fields of TASK.INFO
-- and LOCK.INFO for the names below. All metrics are called redis_script_values and differ in the label `key`:
-- "metric", "metric|name" or "metric|name|group". The relabeling in prometheus.yml turns keys into metrics with labels.
--
-- The user of the exporter needs EVAL, INFO, TASK.INFO, LOCK.INFO, and read permission for the names.

-- Queues, for example {'mail', 'invoices'}, and locks, for example {'nightly-batch'}.
local queues = {}
local locks = {}

local metrics = {}

local function add(metric, value, ...)
  local key = table.concat({metric, ...}, '|')
  -- The exporter drops a metric whose label is not valid UTF-8, and the relabeling expects one line.
  key = string.gsub(key, '[^\32-\126]', '?')
  table.insert(metrics, key)
  table.insert(metrics, value)
end

-- Adds the numeric fields of a flat list of names and values.
local function add_fields(prefix, fields, ...)
  for i = 1, #fields, 2 do
    if type(fields[i + 1]) == 'number' then
      add(prefix .. fields[i], string.format('%.0f', fields[i + 1]), ...)
    end
  end
end

local function value_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

local errors = 0

-- The reply about one name, or nil. Each node of a cluster skips the names of the other nodes.
local function info_of(command, name)
  local reply = redis.pcall(command, name)
  if not reply.err then return reply end
  if not string.find(reply.err, 'non local key', 1, true) then errors = errors + 1 end
end

local info = redis.call('INFO', 'corral')
for field, value in string.gmatch(info, '(corral_[a-z_]+):(%d+)\r') do add(field, value) end

local up = #metrics > 0
add('corral_up', up and '1' or '0')
if not up then return metrics end

for _, name in ipairs(queues) do
  local reply = info_of('TASK.INFO', name)
  if reply then
    add_fields('corral_task_info_', reply, name)
    add_fields('corral_task_info_policy_', value_of(reply, 'policy'), name)
    for _, group in ipairs(value_of(reply, 'groups')) do
      add_fields('corral_task_info_group_', group, name, value_of(group, 'name'))
    end
  end
end

for _, name in ipairs(locks) do
  local reply = info_of('LOCK.INFO', name)
  if reply then
    add_fields('corral_lock_info_', reply, name)
    add('corral_lock_info_holders', tostring(#value_of(reply, 'holders')), name)
  end
end

add('corral_info_errors', tostring(errors))
return metrics
