// A few seconds from the camera, as a file.

export const MAX_RECORDING_S = 10;

const FORMATS = ["video/webm;codecs=vp8", "video/webm", "video/mp4"];
const TICK_MS = 100;

/** Why recording is out of the question here, in words; "" if it is not. */
export function findCameraObstacle() {
  if (!window.isSecureContext) {
    return "The camera needs HTTPS, or localhost.";
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    return "This browser cannot record.";
  }
  return "";
}

/** The camera's stream, without sound; asks the person first. Rejects with a DOMException. */
export function openCamera() {
  return navigator.mediaDevices.getUserMedia({
    audio: false,
    video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "environment" },
  });
}

export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/**
 * Record until stop() is called, at most MAX_RECORDING_S.
 *
 * @param onTime called with the seconds recorded so far
 * @returns {{stop: () => void, file: Promise<File>}}
 */
export function startRecording(stream, onTime) {
  const mimeType = FORMATS.find((format) => MediaRecorder.isTypeSupported(format));
  const recorder = new MediaRecorder(stream, mimeType ? { mimeType } : {});
  const parts = [];
  const started = performance.now();
  const stop = () => {
    if (recorder.state !== "inactive") recorder.stop();
  };
  const timer = setInterval(() => {
    const elapsed = (performance.now() - started) / 1000;
    onTime(Math.min(elapsed, MAX_RECORDING_S));
    if (elapsed >= MAX_RECORDING_S) stop();
  }, TICK_MS);
  const file = new Promise((resolve, reject) => {
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onerror = (event) => reject(event.error);
    recorder.onstop = () => {
      const type = recorder.mimeType.split(";")[0];
      resolve(new File(parts, `recording.${type.split("/")[1] || "webm"}`, { type }));
    };
  }).finally(() => clearInterval(timer));
  recorder.start();
  return { stop, file };
}
