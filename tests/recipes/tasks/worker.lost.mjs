// The handler learns that its task is taken away, while it works.
if (role) await run(async (payload, key, lost) => {
  same(await C('TASK.ACK', QUEUE, GROUP, key), 1);
  await new Promise(resolve => lost.addEventListener('abort', resolve));
  stopping.abort();
});
else {
  process.env.LEASE = 400;
  await C('TASK.PUBLISH', QUEUE, 'ann');
  const worker = start('worker');
  same(await ended(worker), 0);
  same([await C('XLEN', QUEUE), await C('EXISTS', 'dead:{mail}', 'delayed:{mail}')], [0, 0]);
}
