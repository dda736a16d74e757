// Posts to each URL with fetch; prints the status, or `none` where it got no response, or not all of it.
for (const url of process.argv.slice(2)) {
  try {
    const response = await fetch(url, { method: "POST", body: "m", redirect: "manual", signal: AbortSignal.timeout(3000) });
    await response.arrayBuffer();
    console.log(response.status);
  } catch {
    console.log("none");
  }
}
