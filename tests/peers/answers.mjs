// Posts to each URL with fetch; prints the status, or `none` where it got no response, or not all of it.
// Without keep-alive: a connection that the endpoint is about to close would fail the next POST instead.
await fetch("data:,");
const { constructor: Agent } = globalThis[Symbol.for("undici.globalDispatcher.1")];
const dispatcher = new Agent({ pipelining: 0 });
for (const url of process.argv.slice(2)) {
  try {
    const response = await fetch(url, { method: "POST", body: "m", redirect: "manual", signal: AbortSignal.timeout(3000), dispatcher });
    await response.arrayBuffer();
    console.log(response.status);
  } catch {
    console.log("none");
  }
}
