// The service's two endpoints that the page uses, as promises.

/** Why there is no answer: RFC 9457's problem, or the like of it where the service sent none. */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, code = "", request_id = "" }, retryAfter = 0) {
    super(title);
    Object.assign(this, { title, detail, status, code, requestId: request_id, retryAfter });
  }
}

const UNREACHABLE = {
  title: "The service cannot be reached",
  detail: "The connection broke off or was never made.",
};

function readProblem(status, body, retryAfter) {
  const wait = Number.parseInt(retryAfter ?? "", 10) || 0;
  try {
    const problem = JSON.parse(body);
    if (problem.title) return new Problem(problem, wait);
  } catch {
    // Something between here and the service answered in its own words.
  }
  return new Problem(
    { title: `The answer was ${status}`, detail: "It did not come from the service itself.", status },
    wait,
  );
}

/** What an answer of 200 says, if it has `wanted` in it. Throws a Problem. */
function readAnswer(status, body, wanted) {
  try {
    const answer = JSON.parse(body);
    if (wanted in answer) return answer;
  } catch {
    // A page to log in at, for example.
  }
  throw readProblem(status, "", null);
}

function keyHeader(key) {
  return key ? { "X-API-Key": key } : {};
}

/** What is served: the `models` of GET /models. Throws a Problem. */
export async function listModels(key) {
  // No key has other characters, and fetch() would refuse to send them.
  if (/[^!-~]/.test(key)) throw new Problem({ title: "That is no key", status: 401 });
  let response;
  let body;
  try {
    response = await fetch("models", { headers: keyHeader(key), cache: "no-store" });
    body = await response.text();
  } catch {
    throw new Problem(UNREACHABLE);
  }
  if (!response.ok) throw readProblem(response.status, body, response.headers.get("Retry-After"));
  return readAnswer(response.status, body, "models").models;
}

/**
 * Send a video to POST /predict.
 *
 * An XMLHttpRequest, because fetch() does not tell how much of a body has been sent.
 *
 * @param onSent called with the share of the file that has been sent, 0 to 1
 * @param signal an AbortSignal; when it fires the promise is rejected with an AbortError
 * @returns the answer; throws a Problem
 */
export function predict(file, { model, key, withFrames, onSent, signal }) {
  const query = new URLSearchParams({ model });
  if (withFrames) query.set("frames", "png");
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    request.open("POST", `predict?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(keyHeader(key))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => onSent(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => onSent(1);
    request.onload = () => {
      const { status, responseText } = request;
      const retryAfter = request.getResponseHeader("Retry-After");
      try {
        if (status !== 200) throw readProblem(status, responseText, retryAfter);
        resolve(readAnswer(status, responseText, "probabilities"));
      } catch (problem) {
        reject(problem);
      }
    };
    request.onerror = () => reject(new Problem(UNREACHABLE));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onloadend = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort);
    request.send(file);
  });
}
