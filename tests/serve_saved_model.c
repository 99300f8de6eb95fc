/* Serves one request as TensorFlow Serving does, without Python.
 *
 * Loads a SavedModel, feeds one image file as a batch of one string and prints the
 * embedding, a number per line.
 *
 * usage: serve_saved_model <saved model folder> <image file>
 *            <name of the input operation> <name of the output operation>
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void stop_unless_ok(const TF_Status *status, const char *doing) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", doing, TF_Message(status));
  exit(1);
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
    perror(path);
    exit(1);
  }
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*size);
  if (bytes == NULL || fread(bytes, 1, *size, file) != *size) {
    perror(path);
    exit(1);
  }
  fclose(file);
  return bytes;
}

/* A tensor of shape (1,) that holds a copy of the bytes. */
static TF_Tensor *batch_of_one_string(const char *bytes, size_t size) {
  const int64_t shape[] = {1};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
  TF_TString *item = TF_TensorData(tensor);
  TF_TString_Init(item);
  TF_TString_Copy(item, bytes, size);
  return tensor;
}

static TF_Output find_operation(TF_Graph *graph, const char *name) {
  TF_Output output = {TF_GraphOperationByName(graph, name), 0};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation named %s\n", name);
    exit(1);
  }
  return output;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: %s FOLDER IMAGE INPUT OUTPUT\n", argv[0]);
    return 2;
  }
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(
      options, NULL, argv[1], tags, 1, graph, NULL, status);
  stop_unless_ok(status, "loading");

  size_t size = 0;
  char *bytes = read_file(argv[2], &size);
  TF_Tensor *request = batch_of_one_string(bytes, size);
  TF_Tensor *response = NULL;
  TF_Output input = find_operation(graph, argv[3]);
  TF_Output output = find_operation(graph, argv[4]);
  TF_SessionRun(session, NULL, &input, &request, 1, &output, &response, 1, NULL, 0,
                NULL, status);
  stop_unless_ok(status, "running");

  const float *embedding = TF_TensorData(response);
  const size_t units = TF_TensorByteSize(response) / sizeof(float);
  for (size_t i = 0; i < units; i++) printf("%.9g\n", embedding[i]);

  free(bytes);
  TF_TString_Dealloc(TF_TensorData(request));
  TF_DeleteTensor(request);
  TF_DeleteTensor(response);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
