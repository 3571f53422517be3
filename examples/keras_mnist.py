"""A small convolutional network on handwritten digits, as any Keras tutorial writes it. Run it with Lepton:

    lep run examples/keras_mnist.py --epochs 5

Its metrics are tracked and its model is published as `keras-mnist`, ready for `lep serve keras-mnist`. It reads the dataset
`mnist` if you have imported it (`lep data import mnist PATH`), and the digits inside scikit-learn if you have not.
"""

import argparse

import keras
import numpy as np
from keras import layers

import leptonai as la

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--rows", type=int, default=None, help="Train on the first ROWS rows only.")
arguments = parser.parse_args()

try:
    data = la.open_dataset("mnist")
except la.LeptonError:
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = la.import_data("digits", {"image": digits.images.astype(np.uint8), "label": digits.target})
if "split" not in data.schema:
    data = data.split(test=1 / 6, validation=0, seed=0)

columns = data.columns(["image", "label"])
train, test = data.rows("train")[: arguments.rows], data.rows("test")
x_train, y_train = columns["image"][train], columns["label"][train]
x_test, y_test = columns["image"][test], columns["label"][test]
brightest = x_train.max()  # 255 in MNIST, 16 in scikit-learn's digits
x_train, x_test = x_train.astype("float32") / brightest, x_test.astype("float32") / brightest

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input(x_train.shape[1:]),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, epochs=arguments.epochs, batch_size=64, validation_split=0.1)

loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(f"test accuracy: {accuracy:.4f}")
