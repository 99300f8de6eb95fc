"""Callbacks for `fit`: exact retrieval metrics, TensorBoard, speed and memory.

The loss is the AP of batches, smoothed. `RetrievalEvaluation` measures the exact mAP
of held-out images after each epoch and hands it to the other callbacks;
`RetrievalTensorBoard` draws what stands behind the number.

Order matters: Keras passes one dictionary of logs down the list of callbacks, so the
evaluation comes first. The recommended list:

    evaluation = RetrievalEvaluation(test.images, test.labels)
    callbacks = [
        evaluation,  # adds val_map, val_recall_at_1 and val_map_at_r to the logs
        keras.callbacks.ModelCheckpoint(
            "best.keras", monitor="val_map", mode="max", save_best_only=True
        ),
        keras.callbacks.TensorBoard("logs"),
        RetrievalTensorBoard("logs", evaluation, class_names=test.class_names),
        Throughput(batch_size),  # images/s and GiB in the progress bar
    ]

`keras.callbacks.TensorBoard` strips the prefix: val_map is the tag `epoch_map` of the
run `validation`, beside `epoch_loss` of the run `train`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
