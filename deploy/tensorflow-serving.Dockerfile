# One run in TensorFlow Serving. Build it from the repository's root:
#   docker build -f deploy/tensorflow-serving.Dockerfile --build-arg RUN=saved_models/localizer_photos -t served .
# REST: POST http://HOST:8501/v1/models/detector:predict
#   {"signature_name": "encoded", "instances": [{"encoded_images": {"b64": "..."}}]}
FROM tensorflow/serving:2.19.0

ARG RUN=saved_models/localizer_photos
COPY ${RUN}/saved_model /models/detector/1
ENV MODEL_NAME=detector
EXPOSE 8500 8501
