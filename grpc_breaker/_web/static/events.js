// Requests to the server, all with the token of this run, and its events. `EventSource` cannot send the token: the stream
// is read here, and begun anew where it ends or is silent for too long.

const SILENCE = 6000; // ms; the server says the time every two seconds
const PAUSE = 1000; // ms until the next try

export async function ask(token, path, body) {
  const options = { headers: { "X-Breaker-Token": token }, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const data = await response.json();
  if (!response.ok) throw Object.assign(new Error(data.error), { status: response.status });
  return data;
}

// Call `take` with each event, and `lost` with why there are none, until the page is closed.
export async function follow(token, take, lost) {
  for (;;) {
    const ending = new AbortController();
    let watchdog = 0;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => ending.abort(), SILENCE);
    };
    try {
      heard();
      const response = await fetch("/events", { headers: { "X-Breaker-Token": token }, cache: "no-store", signal: ending.signal });
      if (!response.ok) throw new Error((await response.json()).error);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        heard();
        text += part.value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) take(JSON.parse(event.slice("data: ".length)));
      }
      lost("grpc-breaker web has ended");
    } catch (error) {
      lost(error instanceof TypeError || error.name === "AbortError" ? "grpc-breaker web does not answer" : error.message);
    }
    clearTimeout(watchdog);
    await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
  }
}
